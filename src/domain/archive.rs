//! What becomes of the rows of a partition before it is dropped, as the policy says it: none, a table, or a file and
//! where it lies.

/// The name of the table that archived rows go into, beside the event log.
pub const TABLE: &str = "workflow_events_archive";

/// Where the rows of a partition go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Archive {
    /// Nowhere: they are dropped.
    #[default]
    None,
    /// Into the table [`TABLE`].
    Table,
    /// Into a file.
    File {
        /// What it is written as.
        format: Format,
        /// Where it lies.
        directory: Directory,
    },
}

/// What a file is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As `COPY … WITH (FORMAT csv, HEADER)` writes it.
    Csv,
    /// As `pg_parquet` writes it.
    Parquet,
}

/// What an archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A part of the archive table.
    Table,
    /// A file.
    File(Format),
}

impl Kind {
    /// As `meshhook_events.archived_partition` holds it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::File(Format::Csv) => "csv",
            Self::File(Format::Parquet) => "parquet",
        }
    }

    /// What [`Kind::as_str`] has given.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Table, Self::File(Format::Csv), Self::File(Format::Parquet)]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }
}

/// Where files lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directory {
    /// An absolute path on the server, without `.`, `..` and superfluous slashes.
    Local(String),
    /// The beginning of the URIs of an object store, without a slash at its end.
    Store(String),
}

/// Why no archive can be made as a policy says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// Not an archive that is known.
    #[error("archive \"{0}\" is not known")]
    Archive(String),
    /// Not a format that is known.
    #[error("archive format \"{0}\" is not known")]
    Format(String),
    /// A file has to lie somewhere.
    #[error("archive \"file\" has no archive_directory")]
    NoDirectory,
    /// It would depend on where the server was started.
    #[error("archive directory \"{0}\" is not absolute")]
    Relative(String),
    /// It could lead anywhere.
    #[error("archive directory \"{0}\" contains \".\" or \"..\"")]
    Dots(String),
    /// Files would lie among the server's own.
    #[error("archive directory \"/\" is the root of the file system")]
    Root,
    /// Not a character of a path.
    #[error("archive directory contains a character that is not printable")]
    Unprintable,
    /// Only `pg_parquet` writes there.
    #[error("archive directory \"{0}\" is an object store, which takes the format parquet alone")]
    StoreTakesParquet(String),
}

impl Archive {
    /// From the columns of a policy.
    ///
    /// # Errors
    ///
    /// Why no archive can be made so.
    pub fn from_row(
        archive: &str,
        format: &str,
        directory: Option<&str>,
    ) -> Result<Self, ArchiveError> {
        match archive {
            "none" => return Ok(Self::None),
            "table" => return Ok(Self::Table),
            "file" => {}
            other => return Err(ArchiveError::Archive(other.to_owned())),
        }
        let format = match format {
            "csv" => Format::Csv,
            "parquet" => Format::Parquet,
            other => return Err(ArchiveError::Format(other.to_owned())),
        };
        let directory = Directory::parse(directory.ok_or(ArchiveError::NoDirectory)?)?;
        match directory {
            Directory::Store(uri) if format == Format::Csv => {
                Err(ArchiveError::StoreTakesParquet(uri))
            }
            directory => Ok(Self::File { format, directory }),
        }
    }
}

/// The object stores that `pg_parquet` writes to.
const STORES: [&str; 8] = ["s3", "s3a", "az", "azure", "abfss", "gs", "http", "https"];

impl Directory {
    /// From what somebody has written.
    ///
    /// # Errors
    ///
    /// Why no file can lie there.
    pub fn parse(text: &str) -> Result<Self, ArchiveError> {
        if text.chars().any(char::is_control) {
            return Err(ArchiveError::Unprintable);
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            return if STORES.contains(&scheme) && !rest.is_empty() && !rest.starts_with('/') {
                if rest.split('/').any(is_dots) {
                    return Err(ArchiveError::Dots(text.to_owned()));
                }
                Ok(Self::Store(text.trim_end_matches('/').to_owned()))
            } else {
                Err(ArchiveError::Relative(text.to_owned()))
            };
        }
        let Some(path) = text.strip_prefix('/') else {
            return Err(ArchiveError::Relative(text.to_owned()));
        };
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        if parts.iter().copied().any(is_dots) {
            return Err(ArchiveError::Dots(text.to_owned()));
        }
        if parts.is_empty() {
            return Err(ArchiveError::Root);
        }
        Ok(Self::Local(format!("/{}", parts.join("/"))))
    }
}

fn is_dots(part: &str) -> bool {
    matches!(part, "." | "..")
}

/// Whether a partition of that name can have a file of its name: it must be one name in the directory, and seen there.
#[must_use]
pub fn can_name_file(partition: &str) -> bool {
    !partition.is_empty()
        && !partition.starts_with('.')
        && !partition.contains('/')
        && !partition.chars().any(char::is_control)
}

/// The names that the file of a partition may have, in the order in which they are tried: one that exists is never
/// overwritten.
pub fn file_names(partition: &str, format: Format) -> impl Iterator<Item = String> {
    let extension = match format {
        Format::Csv => "csv",
        Format::Parquet => "parquet",
    };
    std::iter::once(format!("{partition}.{extension}"))
        .chain((2..=MAX_FILES).map(move |n| format!("{partition}_{n}.{extension}")))
}

/// How many files of one partition there may be.
const MAX_FILES: u32 = 1_000;

/// The directory and name of a file, where it is one that [`file_names`] gives for that partition: what is read back is
/// no other file of the server.
#[must_use]
pub fn split_path<'a>(
    location: &'a str,
    partition: &str,
    format: Format,
) -> Option<(&'a str, &'a str)> {
    let (directory, name) = location.rsplit_once('/')?;
    file_names(partition, format).any(|known| known == name).then_some((directory, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(path: &str) -> Directory {
        Directory::Local(path.to_owned())
    }

    #[test]
    fn a_row_says_where_rows_go() {
        assert_eq!(Archive::from_row("none", "csv", None), Ok(Archive::None));
        // What is left of another archive says nothing.
        assert_eq!(Archive::from_row("table", "csv", Some("nowhere")), Ok(Archive::Table));
        for (text, format) in [("csv", Format::Csv), ("parquet", Format::Parquet)] {
            let archive = Archive::from_row("file", text, Some("/srv//archive/"));
            assert_eq!(archive, Ok(Archive::File { format, directory: local("/srv/archive") }));
        }
        let store = Directory::Store("s3://bucket/events".to_owned());
        let archive = Archive::from_row("file", "parquet", Some("s3://bucket/events/"));
        assert_eq!(archive, Ok(Archive::File { format: Format::Parquet, directory: store }));
    }

    #[test]
    fn nonsense_is_named() {
        let file = |format, directory| Archive::from_row("file", format, directory);
        assert_eq!(
            Archive::from_row("tape", "csv", None),
            Err(ArchiveError::Archive("tape".into()))
        );
        assert_eq!(file("xml", Some("/a")), Err(ArchiveError::Format("xml".into())));
        assert_eq!(file("csv", None), Err(ArchiveError::NoDirectory));
        for relative in ["", "a", "./a", "ftp://a", "s3://", "file:///a", "http:///a"] {
            assert_eq!(
                file("parquet", Some(relative)),
                Err(ArchiveError::Relative(relative.into())),
                "{relative}"
            );
        }
        for dots in ["/a/../b", "/..", "/a/.", "/./a", "s3://bucket/../other"] {
            assert_eq!(file("parquet", Some(dots)), Err(ArchiveError::Dots(dots.into())), "{dots}");
        }
        for root in ["/", "//"] {
            assert_eq!(file("csv", Some(root)), Err(ArchiveError::Root));
        }
        assert_eq!(file("csv", Some("/a\n/b")), Err(ArchiveError::Unprintable));
        assert_eq!(
            file("csv", Some("s3://bucket")),
            Err(ArchiveError::StoreTakesParquet("s3://bucket".into()))
        );
        assert_eq!(Directory::parse("/a..b/...").unwrap(), local("/a..b/..."));
    }

    #[test]
    fn a_file_is_one_name_in_its_directory() {
        for bad in ["", ".", "..", ".hidden", "a/b", "/a", "a\0", "a\nb"] {
            assert!(!can_name_file(bad), "{bad:?}");
        }
        assert!(can_name_file("workflow_events_y2025m01") && can_name_file("Ereignisse \"2025\""));
        let names: Vec<_> = file_names("p", Format::Csv).take(3).collect();
        assert_eq!(names, ["p.csv", "p_2.csv", "p_3.csv"]);
        assert_eq!(file_names("p", Format::Parquet).last().unwrap(), "p_1000.parquet");
    }

    #[test]
    fn only_files_of_ours_are_read_back() {
        let split = |location| split_path(location, "p", Format::Csv);
        assert_eq!(split("/a/b/p_12.csv"), Some(("/a/b", "p_12.csv")));
        for other in
            ["/etc/passwd", "/a/p.csv/x", "p.csv", "/a/q.csv", "/a/p_1.csv", "/a/p.parquet"]
        {
            assert_eq!(split(other), None, "{other}");
        }
    }

    #[test]
    fn kinds_come_back() {
        for kind in [Kind::Table, Kind::File(Format::Csv), Kind::File(Format::Parquet)] {
            assert_eq!(Kind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(Kind::parse("tape"), None);
    }
}
