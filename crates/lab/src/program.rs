//! Running programs to their end: the system's (`ip`, `ethtool`, ...) and finding our own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::process::in_namespace;
use crate::{Error, Namespace, Result};

/// Where the lab's own programs are.
#[derive(Debug, Clone)]
pub struct Binaries {
    dir: PathBuf,
}

impl Binaries {
    /// The folder that `RAVELIN_BIN_DIR` names, else that of the running program; a test's
    /// program lies one folder (`deps`) below.
    pub fn locate() -> Result<Self> {
        if let Some(dir) = std::env::var_os("RAVELIN_BIN_DIR") {
            return Ok(Self { dir: dir.into() });
        }
        let me = std::env::current_exe().map_err(Error::system("find the running program"))?;
        let mut dir = me.parent().unwrap_or(Path::new("/"));
        if dir.file_name().is_some_and(|name| name == "deps") {
            dir = dir.parent().unwrap_or(dir);
        }
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The daemon.
    pub fn ravelind(&self) -> Result<PathBuf> {
        self.find("ravelind")
    }

    /// The command line.
    pub fn ravelin(&self) -> Result<PathBuf> {
        self.find("ravelin")
    }

    /// The lab itself: its traffic tools run as processes of their own.
    pub fn lab(&self) -> Result<PathBuf> {
        self.find("lab")
    }

    /// The FTP agent.
    pub fn agent_ftp(&self) -> Result<PathBuf> {
        self.find("ravelin-agent-ftp")
    }

    /// The TFTP agent.
    pub fn agent_tftp(&self) -> Result<PathBuf> {
        self.find("ravelin-agent-tftp")
    }

    /// The SIP agent.
    pub fn agent_sip(&self) -> Result<PathBuf> {
        self.find("ravelin-agent-sip")
    }

    fn find(&self, program: &'static str) -> Result<PathBuf> {
        let path = self.dir.join(program);
        if path.is_file() {
            Ok(path)
        } else {
            Err(Error::MissingBinary {
                program,
                searched: self.dir.clone(),
            })
        }
    }
}

/// Runs `ip` with these arguments.
pub fn ip(args: &[&str]) -> Result<String> {
    run(None, "ip", args, "")
}

/// Runs `ip -batch` inside a namespace: one argument list a line, all or an error.
pub fn ip_batch(namespace: &Namespace, lines: &str) -> Result<()> {
    run(None, "ip", &["-n", namespace.name(), "-batch", "-"], lines).map(drop)
}

/// Runs a program to its end, in a namespace if one is given, with `input` on its standard input.
/// Returns its standard output; anything but success is an error with its standard error.
///
/// `input` must fit a pipe's buffer (64 KiB) unless the program reads before it writes.
pub fn run(
    namespace: Option<&Namespace>,
    program: &str,
    args: &[&str],
    input: &str,
) -> Result<String> {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(namespace) = namespace {
        in_namespace(&mut command, namespace)?;
    }
    let mut child = command
        .spawn()
        .map_err(|error| spawn_error(program, error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading its input says so by its exit status.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(Error::system(format!("wait for {program}")))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(Error::Failed {
            command: command_line(program, args),
            status: output.status,
            stderr: last_lines(&String::from_utf8_lossy(&output.stderr), 12),
        })
    }
}

/// The error for a program that could not be started: which package has it, if it is missing.
pub(crate) fn spawn_error(program: &str, error: std::io::Error) -> Error {
    if error.kind() != std::io::ErrorKind::NotFound {
        return Error::System {
            action: format!("start {program}"),
            source: error,
        };
    }
    let package = match program.rsplit('/').next().unwrap_or(program) {
        "ip" | "tc" | "bridge" => "iproute2",
        "ethtool" => "ethtool",
        "nft" => "nftables",
        "curl" => "curl",
        "nginx" => "nginx-light",
        "vsftpd" => "vsftpd",
        "in.tftpd" => "tftpd-hpa",
        "sipp" => "sip-tester",
        "lftp" => "lftp",
        "dpdk-testpmd" => "dpdk-dev",
        "nice" => "coreutils",
        "ping" => "iputils-ping",
        _ => "that has it",
    };
    Error::MissingProgram {
        program: program.to_owned(),
        package,
    }
}

/// The last `count` lines of a text.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn command_line(program: &str, args: &[&str]) -> String {
    std::iter::once(program)
        .chain(args.iter().copied())
        .collect::<Vec<_>>()
        .join(" ")
}
