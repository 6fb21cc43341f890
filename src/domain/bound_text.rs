//! The usual text of a range partition's bound in `pg_class.relpartbound`, read without PostgreSQL's reader of
//! nodes: of a thousand bounds that took half of a worker's pass.
//!
//! It is what `nodeToString` writes for one column of type `timestamptz` with values at both ends
//! (src/backend/nodes/outfuncs.c; alike in 15 to 18). Every character has to be as expected: whatever is not is left
//! to PostgreSQL's own reader.

use crate::domain::instant::Instant;
use crate::domain::partition::{Bound, Range};

const HEAD: &str = "{PARTITIONBOUNDSPEC :strategy r :is_default false :modulus 0 :remainder 0 :listdatums <> \
                    :lowerdatums (";
/// 1184 is `timestamptz`, whose OID is the same in every PostgreSQL.
const VALUE: &str = "{PARTITIONRANGEDATUM :kind 0 :value {CONST :consttype 1184 :consttypmod -1 :constcollid 0 \
                     :constlen 8 :constbyval true :constisnull false :location ";

/// The range that the text says; `None` where it isn't the usual text.
#[must_use]
pub fn read(text: &str) -> Option<Range> {
    let (lower, rest) = value(text.strip_prefix(HEAD)?)?;
    let (upper, rest) = value(rest.strip_prefix(") :upperdatums (")?)?;
    let rest = number(rest.strip_prefix(") :location ")?)?.1;
    (rest == "}").then_some(Range { lower, upper })
}

/// The value of one end, and what follows it.
fn value(text: &str) -> Option<(Bound, &str)> {
    let rest = number(text.strip_prefix(VALUE)?)?.1;
    let mut rest = rest.strip_prefix(" :constvalue 8 [ ")?;
    // Bytes as they lie in memory, each as a signed number.
    let mut bytes = [0; 8];
    for byte in &mut bytes {
        let (signed, following) = number(rest)?;
        *byte = i8::try_from(signed).ok()?.cast_unsigned();
        rest = following.strip_prefix(' ')?;
    }
    let rest = number(rest.strip_prefix("]} :location ")?)?.1;
    Some((Bound::At(Instant(i64::from_ne_bytes(bytes))), rest.strip_prefix('}')?))
}

/// A whole number, and what follows it.
fn number(text: &str) -> Option<(i32, &str)> {
    let is_part = |byte: &u8| byte.is_ascii_digit() || *byte == b'-';
    let (digits, rest) = text.split_at(text.bytes().take_while(|byte| is_part(byte)).count());
    Some((digits.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As PostgreSQL 15 wrote it for 2026-01-01 to 2026-02-01, UTC.
    const JANUARY: &str = "{PARTITIONBOUNDSPEC :strategy r :is_default false :modulus 0 :remainder 0 :listdatums <> \
        :lowerdatums ({PARTITIONRANGEDATUM :kind 0 :value {CONST :consttype 1184 :consttypmod -1 :constcollid 0 \
        :constlen 8 :constbyval true :constisnull false :location 48 :constvalue 8 [ 0 96 -24 10 71 -22 2 0 ]} \
        :location 48}) \
        :upperdatums ({PARTITIONRANGEDATUM :kind 0 :value {CONST :consttype 1184 :consttypmod -1 :constcollid 0 \
        :constlen 8 :constbyval true :constisnull false :location 69 :constvalue 8 [ 0 0 -3 -89 -74 -20 2 0 ]} \
        :location 69}) :location 42}";

    #[test]
    fn the_usual_text_is_read() {
        let range = read(JANUARY).expect("it is the usual text");
        assert_eq!(
            range.to_string(),
            "FROM ('2026-01-01 00:00:00+00') TO ('2026-02-01 00:00:00+00')"
        );
        // PostgreSQL 18 writes no locations.
        let without = JANUARY.replace("48", "-1").replace("69", "-1").replace("42", "-1");
        assert_eq!(read(&without), Some(range));
    }

    #[test]
    fn any_other_text_is_left_alone() {
        assert_eq!(read(""), None);
        for end in 0..JANUARY.len() {
            assert_eq!(read(&JANUARY[..end]), None, "cut off after {end}");
        }
        assert_eq!(read(&format!("{JANUARY} ")), None);
        for (part, other) in [
            ("strategy r", "strategy l"),
            ("is_default false", "is_default true"),
            (":kind 0", ":kind -1"),
            ("consttype 1184", "consttype 1114"),
            ("consttype 1184", "consttype 11840"),
            ("constisnull false", "constisnull true"),
            ("[ 0 96", "[ 0 128"),
            ("[ 0 96", "[ 0 -129"),
            ("[ 0 96", "[ 0 9-6"),
            ("[ 0 96", "[ 0 - 96"),
            ("[ 0 96", "[ 0"),
            ("2 0 ]", "2 0 0 ]"),
            (":location 42", ":location 4294967296"),
            (":location 42", ":location x"),
        ] {
            assert!(JANUARY.contains(part), "{part}");
            assert_eq!(read(&JANUARY.replacen(part, other, 1)), None, "{part} -> {other}");
        }
    }
}
