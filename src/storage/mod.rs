//! Files of archives: written under another name, put in place without overwriting any, and read back; and room on disks.
//!
//! Nothing here follows a symbolic link, and every name is one name in the directory that was opened. Files are the
//! server's user's.

mod folder;
pub mod space;
mod writer;

pub use folder::{Folder, Reader};
pub use writer::Writer;

use std::io;

use crate::error::Error;
use crate::error::archive::{ArchiveFault, Trouble};

/// What the system says, as an error of ours.
fn fault(action: &'static str, path: &str, error: &io::Error) -> Error {
    use io::ErrorKind as Kind;
    let trouble = match error.kind() {
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem => Trouble::Permission,
        Kind::NotFound => Trouble::Missing,
        Kind::AlreadyExists => Trouble::Exists,
        Kind::NotADirectory | Kind::IsADirectory => Trouble::Kind,
        Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => Trouble::Full,
        Kind::WouldBlock => Trouble::InUse,
        // O_NOFOLLOW says so of a symbolic link.
        _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => Trouble::Kind,
        _ => Trouble::Other,
    };
    let text = error.to_string();
    let reason = text.split(" (os error").next().unwrap_or_default().to_owned();
    ArchiveFault::File { action, path: path.to_owned(), reason, trouble }.into()
}

/// The same for something that is not a plain file, where one is wanted.
fn not_plain(action: &'static str, path: &str) -> Error {
    let reason = "It is not a plain file".to_owned();
    ArchiveFault::File { action, path: path.to_owned(), reason, trouble: Trouble::Kind }.into()
}
