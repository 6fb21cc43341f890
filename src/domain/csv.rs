//! CSV as PostgreSQL writes it: `COPY … WITH (FORMAT csv, HEADER)`, where a null is an empty field and an empty text is `""`.
//!
//! See `CopyAttributeOutCSV` in PostgreSQL's `commands/copyto.c`. Bytes, not text: a database in `SQL_ASCII` has any.

/// Appends one record to `out`: its fields, of which `None` is null, and the end of the line.
pub fn write_record<'a>(out: &mut Vec<u8>, fields: impl IntoIterator<Item = Option<&'a [u8]>>) {
    let start = out.len();
    let mut count = 0;
    for field in fields {
        if count > 0 {
            out.push(b',');
        }
        count += 1;
        let Some(field) = field else { continue };
        if field.is_empty() || field.iter().any(|byte| is_special(*byte)) {
            out.push(b'"');
            for byte in field {
                if *byte == b'"' {
                    out.push(b'"');
                }
                out.push(*byte);
            }
            out.push(b'"');
        } else {
            out.extend_from_slice(field);
        }
    }
    // Alone on its line, this would end the data.
    if count == 1 && &out[start..] == b"\\." {
        out.truncate(start);
        out.extend_from_slice(b"\"\\.\"");
    }
    out.push(b'\n');
}

const fn is_special(byte: u8) -> bool {
    matches!(byte, b',' | b'"' | b'\n' | b'\r')
}

/// Why bytes are not CSV as we write it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsvError {
    /// A quote stands where none may, or something after the closing one.
    #[error("record {0} has a quote, or something after one, where it may not be")]
    Quote(u64),
    /// A carriage return outside of quotes.
    #[error("record {0} has a carriage return outside of quotes")]
    CarriageReturn(u64),
    /// The data end within a record.
    #[error("the data end within record {0}")]
    Truncated(u64),
    /// A record has more or fewer fields than the header.
    #[error("record {record} has {found} fields instead of {expected}")]
    Fields {
        /// Which record, the header being the first.
        record: u64,
        /// How many the header has.
        expected: usize,
        /// How many it has.
        found: usize,
    },
}

/// Where the reader is within a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before its first byte.
    Start,
    /// In one without quotes.
    Plain,
    /// Between quotes.
    Quoted,
    /// After a quote, which was the closing one unless another follows.
    AfterQuote,
}

/// Reads CSV piece by piece, wherever a piece ends.
#[derive(Clone, Debug)]
pub struct Reader {
    /// The bytes of the fields of the record so far.
    bytes: Vec<u8>,
    /// Where each ends, and whether it is null.
    ends: Vec<(usize, bool)>,
    place: Place,
    /// The number of the record, from 1.
    record: u64,
    /// How many fields the first one had.
    width: Option<usize>,
}

impl Default for Reader {
    fn default() -> Self {
        Self { bytes: Vec::new(), ends: Vec::new(), place: Place::Start, record: 1, width: None }
    }
}

impl Reader {
    /// Takes the next bytes, and calls `each` with every record that ends in them.
    ///
    /// # Errors
    ///
    /// A [`CsvError`], or what `each` gives.
    pub fn feed<E: From<CsvError>>(
        &mut self,
        piece: &[u8],
        mut each: impl FnMut(Record) -> Result<(), E>,
    ) -> Result<(), E> {
        for &byte in piece {
            match (self.place, byte) {
                (Place::Start, b'"') => self.place = Place::Quoted,
                (Place::Quoted, b'"') => self.place = Place::AfterQuote,
                (Place::AfterQuote, b'"') => {
                    self.bytes.push(byte);
                    self.place = Place::Quoted;
                }
                (Place::Quoted, _) => self.bytes.push(byte),
                (Place::Start | Place::Plain | Place::AfterQuote, b',') => self.end_field(),
                (Place::Start | Place::Plain | Place::AfterQuote, b'\n') => {
                    self.end_field();
                    self.end_record(&mut each)?;
                }
                (Place::Plain, b'"') | (Place::AfterQuote, _) => {
                    return Err(CsvError::Quote(self.record).into());
                }
                (Place::Start | Place::Plain, b'\r') => {
                    return Err(CsvError::CarriageReturn(self.record).into());
                }
                (Place::Start | Place::Plain, _) => {
                    self.bytes.push(byte);
                    self.place = Place::Plain;
                }
            }
        }
        Ok(())
    }

    fn end_field(&mut self) {
        self.ends.push((self.bytes.len(), self.place == Place::Start));
        self.place = Place::Start;
    }

    fn end_record<E: From<CsvError>>(
        &mut self,
        each: &mut impl FnMut(Record) -> Result<(), E>,
    ) -> Result<(), E> {
        let (expected, found) = (*self.width.get_or_insert(self.ends.len()), self.ends.len());
        if expected != found {
            return Err(CsvError::Fields { record: self.record, expected, found }.into());
        }
        each(Record { bytes: &self.bytes, ends: &self.ends, number: self.record })?;
        self.bytes.clear();
        self.ends.clear();
        self.record += 1;
        Ok(())
    }

    /// Looks whether the bytes so far are whole records.
    ///
    /// # Errors
    ///
    /// [`CsvError::Truncated`].
    pub fn finish(&self) -> Result<(), CsvError> {
        if self.place == Place::Start && self.ends.is_empty() && self.record > 1 {
            Ok(())
        } else {
            Err(CsvError::Truncated(self.record))
        }
    }
}

/// One record.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    bytes: &'a [u8],
    ends: &'a [(usize, bool)],
    /// Its number; the header's is 1.
    pub number: u64,
}

impl<'a> Record<'a> {
    /// Its fields in order; `None` is null.
    pub fn fields(&self) -> impl Iterator<Item = Option<&'a [u8]>> + use<'a> {
        (0..self.ends.len()).map({
            let record = *self;
            move |i| record.field(i)
        })
    }

    /// The field at `place`, from 0; `None` where it is null, or there is none.
    #[must_use]
    pub fn field(&self, place: usize) -> Option<&'a [u8]> {
        let (end, is_null) = *self.ends.get(place)?;
        let start = if place == 0 { 0 } else { self.ends[place - 1].0 };
        (!is_null).then(|| &self.bytes[start..end])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Owned = Vec<Option<Vec<u8>>>;

    fn write(records: &[Owned]) -> Vec<u8> {
        let mut out = Vec::new();
        for record in records {
            write_record(&mut out, record.iter().map(Option::as_deref));
        }
        out
    }

    fn read(pieces: &[&[u8]]) -> Result<Vec<Owned>, CsvError> {
        let mut reader = Reader::default();
        let mut records = Vec::new();
        for piece in pieces {
            reader.feed(piece, |record: Record| {
                records.push(record.fields().map(|f| f.map(<[u8]>::to_vec)).collect());
                Ok::<_, CsvError>(())
            })?;
        }
        reader.finish()?;
        Ok(records)
    }

    fn text(fields: &[Option<&str>]) -> String {
        let mut out = Vec::new();
        write_record(&mut out, fields.iter().map(|f| f.map(str::as_bytes)));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn it_is_what_copy_writes() {
        assert_eq!(text(&[Some("1"), None, Some("")]), "1,,\"\"\n");
        assert_eq!(
            text(&[Some("a,b"), Some("\"q\""), Some("\n"), Some("\r")]),
            "\"a,b\",\"\"\"q\"\"\",\"\n\",\"\r\"\n"
        );
        assert_eq!(text(&[Some(" x "), Some("\\."), Some("\\N")]), " x ,\\.,\\N\n");
        assert_eq!(text(&[Some("\\.")]), "\"\\.\"\n");
        assert_eq!(text(&[None]), "\n");
    }

    #[test]
    fn what_is_not_whole_is_named() {
        let error = |bytes: &str| read(&[bytes.as_bytes()]).unwrap_err();
        assert_eq!(error(""), CsvError::Truncated(1));
        assert_eq!(error("a,b"), CsvError::Truncated(1));
        assert_eq!(error("a,b\n1,"), CsvError::Truncated(2));
        assert_eq!(error("a,b\n1,\"2\n"), CsvError::Truncated(2));
        assert_eq!(error("a,b\n1,\"2\"\n\"3\""), CsvError::Truncated(3));
        assert_eq!(error("a\n1\"\n"), CsvError::Quote(2));
        assert_eq!(error("a\n\"1\"2\n"), CsvError::Quote(2));
        assert_eq!(error("a\r\n"), CsvError::CarriageReturn(1));
        assert_eq!(error("a,b\n1\n"), CsvError::Fields { record: 2, expected: 2, found: 1 });
        assert_eq!(error("a\n1,2\n"), CsvError::Fields { record: 2, expected: 1, found: 2 });
    }

    fn records() -> impl Strategy<Value = Vec<Owned>> {
        let field = proptest::option::of(proptest::collection::vec(
            prop_oneof![
                Just(b','),
                Just(b'"'),
                Just(b'\n'),
                Just(b'\r'),
                Just(b'\\'),
                Just(b'.'),
                any::<u8>()
            ],
            0..6,
        ));
        (1_usize..5).prop_flat_map(move |width| {
            proptest::collection::vec(proptest::collection::vec(field.clone(), width), 1..8)
        })
    }

    proptest! {
        #[test]
        fn what_was_written_comes_back_wherever_it_is_cut(records in records(), cut in any::<prop::sample::Index>()) {
            let bytes = write(&records);
            let (head, tail) = bytes.split_at(cut.index(bytes.len() + 1));
            prop_assert_eq!(read(&[head, tail]), Ok(records));
        }

        #[test]
        fn nothing_that_is_cut_off_passes_for_the_whole(records in records(), cut in any::<prop::sample::Index>()) {
            let bytes = write(&records);
            let head = &bytes[..cut.index(bytes.len())];
            prop_assert_ne!(read(&[head]), Ok(records));
        }
    }
}
