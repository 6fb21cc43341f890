//! Directories on a server's machine that archives go to, and file systems that are soon full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::os;
use crate::server::Server;

impl Server {
    /// Makes a directory that the server's user owns; it goes with the server.
    pub fn make_directory(&self, name: &str) -> PathBuf {
        let data: String = self.ask("SHOW data_directory");
        let beside = Path::new(&data).parent().expect("the data lie in the server's directory");
        let path = beside.join(name);
        fs::create_dir(&path).expect("the directory can be made");
        os::give(&path);
        path
    }
}

/// A file system of a few bytes on a directory, until it is dropped.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts it; `None` where this machine doesn't let us.
    pub fn mount(path: &Path, kilobytes: u32) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kilobytes}k"), "tmpfs"])
            .arg(path)
            .output();
        let mounted = mounted.is_ok_and(|output| output.status.success());
        mounted.then(|| {
            os::give(path);
            Self(path.to_owned())
        })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}
