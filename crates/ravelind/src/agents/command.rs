//! The programs of agents: started with the daemon, and again when they end.

use std::ffi::CString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use super::Event;

/// The pause before the first start anew; it doubles up to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A program that has run for so long did not fail at its start.
const RAN_WELL: Duration = Duration::from_secs(10);
/// Between two looks whether it has ended, and whether the daemon does.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Becomes another user and then the program. A child that changed its user itself would begin as a copy of the whole
/// daemon (`fork`), whose workers would pay for that with a fault for every page that they touch; without, it begins as
/// none (`posix_spawn`).
const SETPRIV: &str = "/usr/bin/setpriv";

/// Whom a program runs as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Account {
    user: Uid,
    group: Gid,
}

/// The account of each agent that has another one than the daemon's, or what is wrong with one.
pub(crate) fn accounts(agents: &config::Agents) -> Result<Vec<Option<Account>>, String> {
    let of = |agent: &config::Agent| match &agent.user {
        None => Ok(None),
        Some(user) => {
            account(user, &agents.socket).map_err(|why| format!("agent.{}.user: {why}", agent.name))
        }
    };
    agents.list.iter().map(of).collect()
}

fn account(name: &str, socket: &config::Control) -> Result<Option<Account>, String> {
    let found = User::from_name(name).map_err(|error| format!("\"{name}\": {error}"))?;
    let user = found.ok_or_else(|| {
        format!("there is no user \"{name}\" on this machine: create it, or name another")
    })?;
    if user.uid == Uid::effective() {
        return Ok(None);
    }
    if !Uid::effective().is_root() {
        return Err(format!(
            "only root can start a program as another user: run as root, or as \"{name}\""
        ));
    }
    if !Path::new(SETPRIV).exists() {
        return Err(format!("{SETPRIV} is missing: install util-linux"));
    }
    let group = match &socket.group {
        None => Some(Gid::effective()),
        // One that is not there is said when the socket is made.
        Some(group) => Group::from_name(group)
            .ok()
            .flatten()
            .map(|group| group.gid),
    };
    let text = CString::new(name).map_err(|error| error.to_string())?;
    let groups = getgrouplist(&text, user.gid).map_err(|error| format!("its groups: {error}"))?;
    let folders = socket.socket.ancestors().skip(1);
    for folder in folders.filter(|folder| !folder.as_os_str().is_empty()) {
        // One that is not there is made for all to enter.
        let Ok(data) = std::fs::metadata(folder) else {
            continue;
        };
        let enter = if data.uid() == user.uid.as_raw() {
            0o100
        } else if groups.iter().any(|group| group.as_raw() == data.gid()) {
            0o010
        } else {
            0o001
        };
        if data.mode() & enter == 0 {
            return Err(format!(
                "\"{name}\" may not enter {}, where the agents' socket is: permit that (chmod o+x), or set agents.socket",
                folder.display()
            ));
        }
    }
    // To connect takes the permission to write.
    let may = match group {
        Some(group) if groups.contains(&group) => socket.mode & 0o020 != 0,
        _ => socket.mode & 0o002 != 0,
    };
    if !may {
        let own = Group::from_gid(user.gid).ok().flatten();
        let own = own.map_or_else(|| user.gid.to_string(), |group| group.name);
        return Err(format!(
            "\"{name}\" may not connect to {}: set agents.group to a group of its, such as \"{own}\", that may write there",
            socket.socket.display()
        ));
    }
    let (user, group) = (user.uid, user.gid);
    Ok(Some(Account { user, group }))
}

/// Has what the daemon has open stay its own: DPDK leaves packet memory and raw sockets to every child.
fn keep_descriptors() {
    let flags = nix::libc::CLOSE_RANGE_CLOEXEC as i32;
    // SAFETY: with this flag it closes nothing; it sets the flag of descriptors that are passed on to no program, which
    // nobody relies on not being set: a child's input and output are set up anew by who starts it.
    let failed = unsafe { nix::libc::close_range(3, u32::MAX, flags) } != 0;
    if failed {
        tracing::error!(
            "agents inherit what the daemon has open: {}",
            std::io::Error::last_os_error()
        );
    }
}

/// Runs an agent's program until `stop`.
pub(crate) fn run(
    agent: &config::Agent,
    account: Option<Account>,
    socket: &PathBuf,
    stop: &Arc<AtomicBool>,
    events: &SyncSender<Event>,
) {
    let Some((program, args)) = agent.command.split_first() else {
        return;
    };
    let mut pause = PAUSE_FIRST;
    let mut first = true;
    while !stop.load(Ordering::Relaxed) {
        if !std::mem::take(&mut first) {
            let _ = events.try_send(Event::Restarted);
        }
        let started = Instant::now();
        let mut command = match account {
            None => Command::new(program),
            Some(account) => setpriv(account, program),
        };
        keep_descriptors();
        let child = command
            .args(args)
            .env("RAVELIN_AGENT_SOCKET", socket)
            .env("RAVELIN_AGENT_NAME", &agent.name)
            .stdin(Stdio::null())
            .spawn();
        match child {
            Ok(child) => match watch(child, stop) {
                None => return,
                Some(status) => {
                    if started.elapsed() >= RAN_WELL {
                        pause = PAUSE_FIRST;
                    }
                    tracing::warn!(
                        "agent {}: {program} has ended, {status}; it starts again in {pause:?}",
                        agent.name
                    );
                }
            },
            Err(error) => tracing::error!(
                "agent {}: {program} does not start, {error}; tried again in {pause:?}",
                agent.name
            ),
        }
        let begun = Instant::now();
        while begun.elapsed() < pause && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(LOOK_EVERY);
        }
        pause = (2 * pause).min(PAUSE_MAX);
    }
}

/// Starts the program as this account, with that one's groups and no way to become more.
fn setpriv(Account { user, group }: Account, program: &str) -> Command {
    let mut command = Command::new(SETPRIV);
    command
        .arg(format!("--reuid={user}"))
        .arg(format!("--regid={group}"))
        .args(["--init-groups", "--no-new-privs", "--", program]);
    command
}

/// Waits for a program's end; ends it at `stop`, and returns nothing then.
fn watch(mut child: Child, stop: &AtomicBool) -> Option<String> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.to_string()),
            Ok(None) => {}
            Err(error) => return Some(error.to_string()),
        }
        if stop.load(Ordering::Relaxed) {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(mode: u32, group: Option<&str>) -> config::Control {
        config::Control {
            socket: "/run/x/agents.sock".into(),
            mode,
            group: group.map(str::to_owned),
        }
    }

    /// The tests run as root.
    #[test]
    fn a_user_that_cannot_be_or_cannot_connect_is_refused_with_the_remedy() {
        let nobody = User::from_name("nobody")
            .unwrap()
            .expect("every machine has it");
        let group = Group::from_gid(nobody.gid).unwrap().expect("likewise").name;
        let taken = Account {
            user: nobody.uid,
            group: nobody.gid,
        };
        assert_eq!(
            account("root", &socket(0o600, None)),
            Ok(None),
            "the daemon's own"
        );
        assert_eq!(
            account("nobody", &socket(0o660, Some(&group))),
            Ok(Some(taken))
        );
        assert_eq!(account("nobody", &socket(0o666, None)), Ok(Some(taken)));
        for (name, socket, remedy) in [
            ("no-such-user", socket(0o666, None), "create it"),
            ("nobody", socket(0o660, None), "set agents.group"),
            ("nobody", socket(0o606, Some(&group)), "set agents.group"),
        ] {
            let why = account(name, &socket).expect_err(name);
            assert!(why.contains(remedy), "{why}");
        }
        let dir = tempfile::tempdir().unwrap();
        let alone = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(dir.path(), alone).unwrap();
        let inside = config::Control {
            socket: dir.path().join("agents.sock"),
            ..socket(0o666, None)
        };
        let why = account("nobody", &inside).expect_err("it cannot enter");
        assert!(why.contains("may not enter"), "{why}");
    }
}
