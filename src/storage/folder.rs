//! A directory that archives lie in, and the files in it.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::fs::{self, Access, AtFlags, FileType, Mode, OFlags};

use super::{fault, not_plain};
use crate::error::Result;

/// How much of a file is read at once.
const PIECE: usize = 256 * 1024;

/// A directory, open: what becomes of its path meanwhile doesn't matter.
#[derive(Debug)]
pub struct Folder {
    pub(super) fd: OwnedFd,
    path: String,
}

impl Folder {
    /// Opens it by an absolute path without `.`, `..` or a slash at its end (`domain::archive::Directory` sees to that).
    ///
    /// # Errors
    ///
    /// Where it is missing, a symbolic link or no directory, or may not be entered.
    pub fn open(path: &str) -> Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = fs::open(path, flags, Mode::empty())
            .map_err(|error| fault("open directory", path, &error.into()))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// The path of a file in it, for people.
    #[must_use]
    pub fn path_of(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    /// Looks whether files can be made in it.
    ///
    /// # Errors
    ///
    /// Where the server's user may not.
    pub fn require_writable(&self) -> Result<()> {
        fs::accessat(&self.fd, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::empty())
            .map_err(|error| fault("write to directory", &self.path, &error.into()))
    }

    /// Whether something of that name is in it, whatever it is.
    ///
    /// # Errors
    ///
    /// Where the system doesn't say.
    pub fn has(&self, name: &str) -> Result<bool> {
        match fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(fault("look at file", &self.path_of(name), &error.into())),
        }
    }

    /// Opens a plain file for reading.
    ///
    /// # Errors
    ///
    /// Where it is missing or no plain file, or may not be read.
    pub fn read(&self, name: &str) -> Result<Reader> {
        let path = self.path_of(name);
        // A pipe would be waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = fs::openat(&self.fd, name, flags, Mode::empty())
            .map_err(|error| fault("open file", &path, &error.into()))?;
        let stat = fs::fstat(&fd).map_err(|error| fault("look at file", &path, &error.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(not_plain("open file", &path));
        }
        Ok(Reader { file: File::from(fd), path, size: stat.st_size })
    }

    /// Writes the directory itself to disk, with the names that it has.
    pub(super) fn sync(&self) -> Result<()> {
        fs::fsync(&self.fd).map_err(|error| fault("fsync directory", &self.path, &error.into()))
    }

    /// Removes a plain file.
    pub(super) fn remove(&self, name: &str) -> rustix::io::Result<()> {
        fs::unlinkat(&self.fd, name, AtFlags::empty())
    }
}

/// A file that is read.
#[derive(Debug)]
pub struct Reader {
    file: File,
    path: String,
    /// Its size, in bytes.
    pub size: i64,
}

impl Reader {
    /// Its path, for people.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Writes it to disk.
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|error| fault("fsync file", &self.path, &error))
    }

    /// Calls `each` with what is in it, piece by piece; `each` looks for interrupts.
    ///
    /// # Errors
    ///
    /// Where it can't be read, or what `each` gives.
    pub fn for_each(&mut self, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut piece = vec![0; PIECE];
        loop {
            match self.file.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(count) => each(&piece[..count])?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(fault("read file", &self.path, &error)),
            }
        }
    }
}
