//! The command line about common state: users, blocked networks, rules, expectations.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use ipnet::IpNet;
use policy::{AddressSet, InvalidAddress};

#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Say that a user is at an address: rules with the user or a group of it then match packets
    /// from there, on every node.
    #[command(after_help = "\
Whoever was logged in at the address is not any more.

Exit status: 3 if a living node has not confirmed it in time; that node gets it as soon as it can be
reached.

Example: ravelin user login alice --address 10.1.0.7 --groups staff,ops --for 8h")]
    Login {
        /// The user's name, as rules have it.
        #[arg(value_parser = name)]
        name: String,
        /// Where the user's packets come from.
        #[arg(long)]
        address: IpAddr,
        /// The groups that the user is in, at most 16.
        #[arg(long, value_delimiter = ',', value_parser = name)]
        groups: Vec<String>,
        /// For how long, for example 8h; without it until the logout.
        #[arg(long = "for", value_name = "DURATION", value_parser = life)]
        life: Option<Duration>,
    },
    /// Say that a user has left: flows that only the user's rules allow end.
    #[command(
        group = clap::ArgGroup::new("who").required(true).multiple(true),
        after_help = "\
With both NAME and --address only that user there is logged out.

Examples: ravelin user logout alice
          ravelin user logout --address 10.1.0.7"
    )]
    Logout {
        /// The user, wherever logged in.
        #[arg(group = "who", value_parser = name)]
        name: Option<String>,
        /// The address, whoever is logged in there.
        #[arg(long, group = "who")]
        address: Option<IpAddr>,
    },
    /// List who is logged in.
    #[command(after_help = "Example: ravelin user list --json")]
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BlockCommand {
    /// Drop everything from and to a network, running connections too, on every node.
    #[command(after_help = "\
A network that has an address of the node itself is refused, and so is all of IPv4 or IPv6.

Exit status: 3 if a living node has not confirmed it in time; that node gets it as soon as it can be
reached.

Example: ravelin block add 192.0.2.0/24 --for 10m --note \"scans for mail relays\"")]
    Add {
        /// The network, or one address.
        #[arg(value_name = "NET", value_parser = network)]
        net: IpNet,
        /// For how long, for example 10m; without it until it is deleted.
        #[arg(long = "for", value_name = "DURATION", value_parser = life)]
        life: Option<Duration>,
        /// Why, for people.
        #[arg(long, default_value = "", hide_default_value = true)]
        note: String,
    },
    /// Let a network pass again, if the rules do.
    #[command(after_help = "Example: ravelin block del 192.0.2.0/24")]
    Del {
        /// The network, as it was added.
        #[arg(value_name = "NET", value_parser = network)]
        net: IpNet,
    },
    /// List what is blocked, by operators and by the detector of scans and floods.
    #[command(after_help = "Example: ravelin block list")]
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Replace the rules of every node, while they run.
    #[command(after_help = "\
The file has [[rule]] and [sync] as a configuration has them, and nothing else. The node that is
asked checks it first. A flow that the new rules do not allow ends with its next packet. The
configuration files stay as they are: write the rules there as well, or a cluster that was wholly
stopped starts with the old ones.

Exit status: 3 if a living node has not confirmed it in time or could not use the rules.

Example: ravelin policy load rules.toml")]
    Load {
        /// The rules, TOML.
        file: PathBuf,
    },
    /// Show the rules that are in force: their generation, source and text.
    #[command(after_help = "Example: ravelin policy show")]
    Show,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ExpectCommand {
    /// List the related connections that protocols' agents have announced.
    #[command(after_help = "Example: ravelin expect list")]
    List,
}

fn name(text: &str) -> Result<String, String> {
    policy::check_name(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

/// From a second to ten years.
fn life(text: &str) -> Result<Duration, String> {
    let (least, most) = (1, 3_650 * 86_400);
    let life = config::duration(text)
        .ok_or("not a duration; write a whole number and a unit: 30s, 10m, 8h or 5d".to_owned())?;
    if !(least..=most).contains(&life.as_secs()) {
        return Err("out of range; write 1s to 3650d".into());
    }
    Ok(life)
}

fn network(text: &str) -> Result<IpNet, String> {
    let unclear =
        || "not a network; write one such as 192.0.2.0/24, fd00:1::/64 or 192.0.2.7".into();
    if text.starts_with('!') {
        return Err(unclear());
    }
    match AddressSet::parse([text]) {
        Ok(set) => set.include().first().copied().ok_or_else(unclear),
        Err(InvalidAddress::Syntax(_)) => Err(unclear()),
        Err(error) => Err(error.to_string()),
    }
}
