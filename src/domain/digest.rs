//! A digest over rows that depends neither on their order nor on that of their columns.
//!
//! It finds what was altered, lost, added or doubled by mistake or by a broken disk. Hashes are added up, so it is no proof
//! against somebody who can choose rows at will.

use std::fmt;

/// How many bytes the hash of a row has.
const BYTES: usize = 32;

/// How many numbers of 64 bits that is.
const LANES: usize = BYTES / 8;

/// The digest of the rows added so far.
///
/// Each row is hashed (BLAKE3, over the names and values of its columns that aren't null, each after its length), and the
/// hashes are added up as four numbers of 64 bits that wrap around. A column that is null in every row is therefore as good
/// as none: adding one to a table doesn't change it.
#[derive(Clone, Default)]
pub struct Digest {
    lanes: [u64; LANES],
    rows: u64,
    /// What is hashed; kept so that each row doesn't ask for memory.
    buffer: Vec<u8>,
}

impl Digest {
    /// Adds a row, given by the names and the values of its columns, as text, in the order of their names; `None` is null.
    pub fn add<'a>(&mut self, columns: impl IntoIterator<Item = (&'a [u8], Option<&'a [u8]>)>) {
        self.buffer.clear();
        for (name, value) in columns {
            if let Some(value) = value {
                for part in [name, value] {
                    self.buffer.extend_from_slice(&(part.len() as u64).to_le_bytes());
                    self.buffer.extend_from_slice(part);
                }
            }
        }
        let hash = blake3::hash(&self.buffer);
        let (numbers, _) = hash.as_bytes().as_chunks::<8>();
        for (lane, number) in self.lanes.iter_mut().zip(numbers) {
            *lane = lane.wrapping_add(u64::from_le_bytes(*number));
        }
        self.rows += 1;
    }

    /// Adds the rows of another digest.
    pub fn merge(&mut self, other: &Self) {
        for (lane, number) in self.lanes.iter_mut().zip(other.lanes) {
            *lane = lane.wrapping_add(number);
        }
        self.rows += other.rows;
    }

    /// How many rows were added.
    #[must_use]
    pub const fn rows(&self) -> u64 {
        self.rows
    }
}

/// Equal where the rows are the same, and as many.
impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        (self.lanes, self.rows) == (other.lanes, other.rows)
    }
}

impl Eq for Digest {}

/// 64 hexadecimal digits, without the number of rows.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lanes.iter().try_for_each(|lane| write!(f, "{lane:016x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows, {self}", self.rows)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Row = Vec<Option<String>>;

    const NAMES: [&str; 3] = ["id", "payload", "ts"];

    fn digest<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Digest {
        let mut digest = Digest::default();
        for row in rows {
            let values = row.iter().map(|value| value.as_ref().map(String::as_bytes));
            digest.add(NAMES.iter().map(|name| name.as_bytes()).zip(values));
        }
        digest
    }

    fn row() -> impl Strategy<Value = Row> {
        proptest::collection::vec(proptest::option::of("[a-c0\0]{0,3}"), NAMES.len())
    }

    /// At least two rows, so that there is one to lose and one that stays.
    fn rows() -> impl Strategy<Value = Vec<Row>> {
        proptest::collection::vec(row(), 2..20)
    }

    proptest! {
        #[test]
        fn order_does_not_matter(
            (rows, shuffled) in rows().prop_flat_map(|rows| (Just(rows.clone()), Just(rows).prop_shuffle())),
        ) {
            prop_assert_eq!(digest(&rows), digest(&shuffled));
            prop_assert_eq!(digest(&rows).to_string(), digest(&shuffled).to_string());
        }

        #[test]
        fn parts_add_up(rows in rows(), at in any::<proptest::sample::Index>()) {
            let (some, others) = rows.split_at(at.index(rows.len() + 1));
            let mut whole = digest(some);
            whole.merge(&digest(others));
            prop_assert_eq!(whole, digest(&rows));
        }

        #[test]
        fn an_altered_row_changes_it(
            rows in rows(), other in row(), at in any::<proptest::sample::Index>(),
        ) {
            let mut altered = rows.clone();
            let place = at.index(rows.len());
            altered[place] = other;
            prop_assume!(altered != rows);
            prop_assert_eq!(digest(&altered).rows(), digest(&rows).rows());
            prop_assert_ne!(digest(&altered).to_string(), digest(&rows).to_string());
        }

        #[test]
        fn a_missing_and_a_doubled_row_change_it(
            rows in rows(), at in any::<proptest::sample::Index>(),
        ) {
            let place = at.index(rows.len());
            let (mut fewer, mut more) = (rows.clone(), rows.clone());
            let row = fewer.remove(place);
            // Twice more: an even number of the same row must not cancel out.
            more.extend([row.clone(), row]);
            let texts = [&rows, &fewer, &more].map(|rows| digest(rows).to_string());
            prop_assert!(texts[0] != texts[1] && texts[0] != texts[2] && texts[1] != texts[2]);
        }
    }

    fn one(columns: &[(&str, Option<&str>)]) -> String {
        let mut digest = Digest::default();
        digest.add(columns.iter().map(|(n, v)| (n.as_bytes(), v.map(str::as_bytes))));
        digest.to_string()
    }

    #[test]
    fn null_is_not_empty_and_values_keep_to_their_columns() {
        let differ = [
            one(&[("a", None), ("b", None)]),
            one(&[("a", Some("")), ("b", None)]),
            one(&[("a", None), ("b", Some(""))]),
            one(&[("a", Some("")), ("b", Some(""))]),
            one(&[("a", Some("xy")), ("b", Some(""))]),
            one(&[("a", Some("x")), ("b", Some("y"))]),
            one(&[("a", Some("y")), ("b", Some("x"))]),
            one(&[("ab", Some("xy"))]),
        ];
        for (i, one) in differ.iter().enumerate() {
            assert!(!differ[i + 1..].contains(one), "{i}");
        }
    }

    #[test]
    fn a_column_that_is_null_everywhere_is_as_good_as_none() {
        assert_eq!(one(&[("a", Some("1")), ("b", None)]), one(&[("a", Some("1"))]));
    }

    #[test]
    fn its_text_never_changes_from_one_version_to_the_next() {
        assert_eq!(Digest::default().to_string(), "0".repeat(64));
        assert_eq!(
            one(&[("id", Some("1")), ("payload", None), ("ts", Some("2025-01-01 00:00:00+00"))]),
            "d5876ea041d8ad5edbe6a093936699a0f5065a40f2de626aee17e1ed321677ed"
        );
        assert_eq!(Digest::default().rows(), 0);
    }
}
