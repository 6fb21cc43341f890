//! Writing a file: under a temporary name, to disk, then in place under a name that is free.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    self, Advice, AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat,
};
use rustix::io::Errno;

use super::{fault, not_plain};
use crate::error::Result;
use crate::storage::{Folder, Reader};

/// How much is gathered before it is written.
const BUFFER: usize = 256 * 1024;

/// What is appended to a name while the file is written.
const TEMPORARY: &str = ".tmp";

/// A file under a temporary name; removed when dropped.
#[derive(Debug)]
pub struct Writer<'a> {
    folder: &'a Folder,
    name: String,
    file: BufWriter<File>,
    size: i64,
    is_there: bool,
}

impl<'a> Writer<'a> {
    /// Makes the file that is to have `name`. What a crash has left under the temporary name is removed.
    ///
    /// # Errors
    ///
    /// Where the directory may not be written to, something other than a plain file has the temporary name, or somebody
    /// is writing it.
    pub fn create(folder: &'a Folder, name: &str) -> Result<Self> {
        let name = format!("{name}{TEMPORARY}");
        remove_stale(folder, &name)?;
        let path = folder.path_of(&name);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(&folder.fd, name.as_str(), flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| fault("create file", &path, &error.into()))?;
        let mut writer = Self::of(folder, name, fd);
        // Tells others that the file is no leftover.
        lock(writer.file.get_ref(), &path)?;
        // Whoever took it for one before that has removed it, and writes now.
        let own = fs::fstat(writer.file.get_ref())
            .map_err(|error| fault("look at file", &path, &error.into()))?;
        let found = fs::statat(&folder.fd, writer.name.as_str(), AtFlags::SYMLINK_NOFOLLOW);
        if !found.is_ok_and(|found| is_same(&found, &own)) {
            writer.is_there = false;
            return Err(fault("lock file", &path, &Errno::WOULDBLOCK.into()));
        }
        Ok(writer)
    }

    /// The path of the temporary file of `name`, free for somebody else to write to: what a crash has left is removed.
    ///
    /// # Errors
    ///
    /// As [`Writer::create`].
    pub fn reserve(folder: &Folder, name: &str) -> Result<String> {
        let name = format!("{name}{TEMPORARY}");
        remove_stale(folder, &name)?;
        Ok(folder.path_of(&name))
    }

    /// Takes over what somebody else has written to the path that [`Writer::reserve`] gave.
    ///
    /// # Errors
    ///
    /// Where it is no plain file, or not the server's user's.
    pub fn adopt(folder: &'a Folder, name: &str) -> Result<Self> {
        let name = format!("{name}{TEMPORARY}");
        let path = folder.path_of(&name);
        let (fd, stat) = open_plain(folder, &name, OFlags::RDWR)?;
        fs::fchmod(&fd, Mode::RUSR | Mode::WUSR)
            .map_err(|error| fault("change mode of file", &path, &error.into()))?;
        let mut writer = Self::of(folder, name, fd);
        writer.size = stat.st_size;
        Ok(writer)
    }

    fn of(folder: &'a Folder, name: String, fd: OwnedFd) -> Self {
        let file = BufWriter::with_capacity(BUFFER, File::from(fd));
        Self { folder, name, file, size: 0, is_there: true }
    }

    /// Completes what a crash has cut short after a file was put in place: it and its name are written to disk, and the
    /// temporary file of `name` is removed.
    ///
    /// # Errors
    ///
    /// As [`Writer::create`]; where the disk fails.
    pub fn complete(folder: &Folder, placed: &Reader, name: &str) -> Result<()> {
        placed.sync()?;
        remove_stale(folder, &format!("{name}{TEMPORARY}"))?;
        folder.sync()
    }

    /// Appends to it.
    ///
    /// # Errors
    ///
    /// Where the system refuses, as when the disk is full.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.size = self.size.saturating_add(i64::try_from(bytes.len()).unwrap_or(i64::MAX));
        let written = self.file.write_all(bytes);
        written.map_err(|error| fault("write file", &self.folder.path_of(&self.name), &error))
    }

    /// Writes it to disk, gives it the first of `names` that is free, and writes that to disk too.
    ///
    /// # Errors
    ///
    /// Where the disk is full, or no name is free.
    pub fn place(mut self, names: impl IntoIterator<Item = String>) -> Result<Placed<'a>> {
        let path = self.folder.path_of(&self.name);
        let own = (|| {
            self.file.flush().map_err(|error| fault("write file", &path, &error))?;
            let file = self.file.get_ref();
            file.sync_all().map_err(|error| fault("fsync file", &path, &error))?;
            // So that what is read back comes from the disk. Not every file system takes the advice.
            let _ = fs::fadvise(file, 0, None, Advice::DontNeed);
            fs::fstat(file).map_err(|error| fault("look at file", &path, &error.into()))
        })()?;
        for name in names {
            match self.give_name(&name) {
                Ok(()) => {
                    let placed = Placed { folder: self.folder, name, size: self.size, kept: false };
                    let found = fs::statat(
                        &self.folder.fd,
                        placed.name.as_str(),
                        AtFlags::SYMLINK_NOFOLLOW,
                    );
                    if !found.is_ok_and(|found| is_same(&found, &own)) {
                        // Somebody has put another file under the temporary name.
                        return Err(not_plain("put in place file", &path));
                    }
                    self.folder.sync()?;
                    return Ok(placed);
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(fault("put in place file", &path, &error.into())),
            }
        }
        Err(fault("put in place file", &path, &Errno::EXIST.into()))
    }

    /// Gives it a name that nothing has.
    fn give_name(&mut self, name: &str) -> rustix::io::Result<()> {
        let fd = &self.folder.fd;
        match fs::linkat(fd, self.name.as_str(), fd, name, AtFlags::empty()) {
            // A file system without hard links.
            Err(Errno::PERM | Errno::NOTSUP | Errno::NOSYS) => {
                fs::renameat_with(fd, self.name.as_str(), fd, name, RenameFlags::NOREPLACE)?;
            }
            linked => {
                linked?;
                let _ = self.folder.remove(&self.name);
            }
        }
        self.is_there = false;
        Ok(())
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        if self.is_there {
            let _ = self.folder.remove(&self.name);
        }
    }
}

/// A file that has its name; removed when dropped, unless it is kept.
#[derive(Debug)]
pub struct Placed<'a> {
    folder: &'a Folder,
    /// Its name.
    pub name: String,
    /// Its size, in bytes.
    pub size: i64,
    kept: bool,
}

impl Placed<'_> {
    /// It is what it should be, and stays.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Placed<'_> {
    fn drop(&mut self) {
        if !self.kept {
            let _ = self.folder.remove(&self.name);
        }
    }
}

fn is_same(a: &Stat, b: &Stat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

/// Says that a file is being written.
fn lock(file: impl AsFd, path: &str) -> Result<()> {
    match fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        // Not every file system has locks.
        Ok(()) | Err(Errno::NOTSUP | Errno::NOSYS | Errno::NOLCK) => Ok(()),
        Err(error) => Err(fault("lock file", path, &error.into())),
    }
}

/// Removes what a crash has left under a temporary name.
fn remove_stale(folder: &Folder, name: &str) -> Result<()> {
    if !folder.has(name)? {
        return Ok(());
    }
    let path = folder.path_of(name);
    let (fd, _) = open_plain(folder, name, OFlags::RDWR)?;
    lock(&fd, &path)?;
    folder.remove(name).map_err(|error| fault("remove file", &path, &error.into()))
}

/// Opens a plain file.
fn open_plain(folder: &Folder, name: &str, access: OFlags) -> Result<(OwnedFd, Stat)> {
    let path = folder.path_of(name);
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = fs::openat(&folder.fd, name, flags, Mode::empty())
        .map_err(|error| fault("open file", &path, &error.into()))?;
    let stat = fs::fstat(&fd).map_err(|error| fault("look at file", &path, &error.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(not_plain("open file", &path));
    }
    Ok((fd, stat))
}
