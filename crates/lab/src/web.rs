//! nginx in the server's namespace, and the files that it serves: random, of known SHA-256, made
//! once and kept.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::process::{Process, Spawn, fresh_log};
use crate::state::StateDir;
use crate::wait::{Interrupt, Poll, wait_until};
use crate::{Error, Namespace, Result};

/// A file of random bytes and its SHA-256, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RandomFile {
    /// Its name in the cache.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its hash.
    pub sha256: String,
}

impl RandomFile {
    /// The file of this length in `cache`, made if it is not there whole.
    pub fn cached(cache: &Path, bytes: u64) -> Result<Self> {
        fs::create_dir_all(cache).map_err(Error::file("make", cache))?;
        let name = format!("random-{bytes}");
        let (path, sum) = (cache.join(&name), cache.join(format!("{name}.sha256")));
        let whole = fs::metadata(&path).is_ok_and(|data| data.len() == bytes);
        if whole && let Ok(sha256) = fs::read_to_string(&sum) {
            return Ok(Self {
                name,
                bytes,
                sha256: sha256.trim().to_owned(),
            });
        }
        // Under another name until it is whole, and the sum last: an interrupted run leaves
        // nothing that looks finished.
        let partial = cache.join(format!("{name}.partial"));
        let sha256 = write_random(&partial, bytes)?;
        fs::rename(&partial, &path).map_err(Error::file("rename", &partial))?;
        fs::write(&sum, &sha256).map_err(Error::file("write", &sum))?;
        Ok(Self {
            name,
            bytes,
            sha256,
        })
    }
}

/// A running nginx.
#[derive(Debug)]
pub struct WebServer {
    process: Process,
}

impl WebServer {
    /// Starts it in `space` on port 80 of both families: `/files/` is `files`, `/` a small page.
    pub fn start(
        space: &Namespace,
        state: &StateDir,
        prefix: &Path,
        files: &Path,
        logs: &Path,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let root = prefix.join("html");
        fs::create_dir_all(&root).map_err(Error::file("make", &root))?;
        let page = root.join("index.html");
        fs::write(
            &page,
            "<!doctype html><title>Ravelin</title><p>You came through the cluster.\n",
        )
        .map_err(Error::file("write", &page))?;
        let pid = prefix.join("nginx.pid");
        let config = prefix.join("nginx.conf");
        fs::write(&config, configuration(&root, files, &pid))
            .map_err(Error::file("write", &config))?;

        let log = fresh_log(logs, "nginx")?;
        let mut process = Spawn::new("nginx", "nginx")
            .args(["-e", "stderr"])
            .args([Path::new("-p"), prefix, Path::new("-c"), &config])
            .inside(space)
            .start(state, &log)?;
        let every = Duration::from_millis(20);
        wait_until(
            "nginx to listen",
            Duration::from_secs(10),
            every,
            interrupt,
            || {
                process.must_run()?;
                let table = space.enter(|| fs::read_to_string("/proc/thread-self/net/tcp6"))?;
                let table = table.map_err(Error::file("read", "/proc/thread-self/net/tcp6"))?;
                // A listener (state 0A) on port 80 (0050) of any address.
                let listens = table
                    .lines()
                    .any(|line| line.contains(":0050 ") && line.contains(" 0A "));
                Ok(if listens {
                    Poll::Ready(())
                } else {
                    Poll::Pending(String::new())
                })
            },
        )?;
        Ok(Self { process })
    }

    /// Fails with the end of its log when it has ended.
    pub fn must_run(&mut self) -> Result<()> {
        self.process.must_run()
    }
}

/// One process without a master: there is one CPU's work at most, and nothing outlives a kill.
fn configuration(root: &Path, files: &Path, pid: &Path) -> String {
    let (root, files, pid) = (root.display(), files.display(), pid.display());
    format!(
        "daemon off;\n\
         master_process off;\n\
         pid {pid};\n\
         events {{ worker_connections 2048; }}\n\
         http {{\n\
         access_log off;\n\
         sendfile on;\n\
         sendfile_max_chunk 256k;\n\
         client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;\n\
         uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
         server {{\n\
         listen [::]:80 ipv6only=off backlog=1024;\n\
         root {root};\n\
         location /files/ {{ alias {files}/; }}\n\
         }}\n\
         }}\n"
    )
}

fn write_random(path: &PathBuf, bytes: u64) -> Result<String> {
    let source = "/dev/urandom";
    let mut random = File::open(source)
        .map_err(Error::file("open", source))?
        .take(bytes);
    let mut file = File::create(path).map_err(Error::file("make", path))?;
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        let length = random
            .read(&mut block)
            .map_err(Error::file("read", source))?;
        if length == 0 {
            break;
        }
        hash.update(&block[..length]);
        file.write_all(&block[..length])
            .map_err(Error::file("write", path))?;
    }
    Ok(hex(&hash.finalize()))
}

/// Bytes in lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_made_once_and_again_when_it_is_not_whole() {
        let cache = tempfile::tempdir().expect("a folder");
        let first = RandomFile::cached(cache.path(), 3_000_001).expect("made");
        let path = cache.path().join(&first.name);
        assert_eq!(
            hex(&Sha256::digest(fs::read(&path).expect("there"))),
            first.sha256
        );
        assert_eq!(
            RandomFile::cached(cache.path(), 3_000_001).expect("kept"),
            first
        );
        File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_len(10))
            .expect("cut");
        let second = RandomFile::cached(cache.path(), 3_000_001).expect("made again");
        assert_ne!(second.sha256, first.sha256);
        assert_eq!(fs::metadata(&path).expect("there").len(), 3_000_001);
    }
}
