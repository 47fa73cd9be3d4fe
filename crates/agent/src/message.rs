//! What the two sides say.

use std::net::IpAddr;

use rkyv::{Archive, Deserialize, Serialize};

/// The version of these messages. The daemon refuses an agent of another one.
pub const PROTOCOL_VERSION: u32 = 2;
/// Requests of one agent that may be under way.
pub const REQUESTS_MAX: usize = 64;

/// A flow, named from one of its ends; requests may name it from either.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Flow {
    /// The IP protocol number.
    pub proto: u8,
    /// Source address of the packets that the end sends. In a [`Packet`] it is that of the opener.
    pub src: IpAddr,
    /// Its port, in host order; of ICMP echo the identifier.
    pub sport: u16,
    /// The other end's address.
    pub dst: IpAddr,
    /// The other end's port.
    pub dport: u16,
}

/// A packet of a flow that the agent watches. It waits at the daemon until the agent hands it back.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// By which it is handed back.
    pub id: u64,
    /// Its flow, seen from who opened it.
    pub flow: Flow,
    /// Whether it goes from the flow's opener to the other end.
    pub from_opener: bool,
    /// The whole Ethernet frame, as it arrived.
    pub frame: Vec<u8>,
}

/// A connection that shall pass though no rule allows it, since one that a rule allows has announced
/// it. It passes under its parent's rule.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Expectation {
    /// The flow that announced it; it must live on this node.
    pub parent: Flow,
    /// Whether it will come from the side of the parent's opener: it must arrive in the parent's zone of
    /// that side.
    pub from_opener: bool,
    /// The IP protocol number.
    pub proto: u8,
    /// From this address only, or from any. Its source port may be any.
    pub src: Option<IpAddr>,
    /// To this address.
    pub dst: IpAddr,
    /// To this port.
    pub dport: u16,
    /// The mark that the connection gets; 0 for none.
    pub mark: u32,
    /// Whether the first connection uses it up.
    pub once: bool,
    /// How long it is waited for, in milliseconds: 1 s to an hour.
    pub for_ms: u64,
}

/// A change of state, or a question. Each is answered once with its token; [`Request::Synchronise`] is
/// answered a second time by [`ToAgent::Synchronised`].
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Expect a related connection. Answered when every living node has been told.
    Expect(Expectation),
    /// Set a flow's mark.
    Mark {
        /// The flow.
        flow: Flow,
        /// The mark.
        value: u32,
    },
    /// Have a flow end after so many seconds of silence, a TCP connection while it is established; 0 for what is configured for
    /// its protocol. Replicated with the mark.
    Timeout {
        /// The flow.
        flow: Flow,
        /// The seconds.
        seconds: u16,
    },
    /// End a flow: its packets are those of no flow from now on.
    End {
        /// The flow.
        flow: Flow,
    },
    /// Drop all packets from and to an address. Answered when every living node has been told.
    Block {
        /// The address.
        source: IpAddr,
        /// For how long, in milliseconds: 1 s to 3650 days.
        for_ms: u64,
        /// Why, for people: at most 256 bytes.
        note: String,
    },
    /// Bring the state of a flow to the backups as it is now.
    Synchronise {
        /// The flow.
        flow: Flow,
        /// Whether its packets that come from now on wait until it is done.
        hold: bool,
    },
    /// Bring all that this node has to the backups as it is now, also what would be replicated later. Answered a second
    /// time, as [`Request::Synchronise`] is.
    SynchroniseAll,
    /// What is known of a flow?
    Ask {
        /// The flow.
        flow: Flow,
    },
    /// Hand over the packets of a flow from now on, or no longer.
    Watch {
        /// The flow.
        flow: Flow,
        /// Whether to.
        on: bool,
    },
}

/// What is known of a flow on the node that was asked.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct FlowState {
    /// The flow, seen from who opened it.
    pub flow: Flow,
    /// The identity of the rule that lets it pass.
    pub rule: u32,
    /// Its mark.
    pub mark: u32,
    /// After how many seconds of silence it ends; 0 for what is configured for its protocol.
    pub timeout_s: u16,
    /// Whether packets went both ways.
    pub replied: bool,
}

/// What came of a request that was carried out.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum Done {
    /// All of it.
    Complete,
    /// It is done, and these living nodes had not confirmed it within three seconds.
    Lacking(Vec<String>),
    /// What was asked.
    Flow(FlowState),
}

/// From an agent to the daemon.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum ToDaemon {
    /// The first message.
    Hello {
        /// [`PROTOCOL_VERSION`].
        version: u32,
        /// Which agent of the configuration it is.
        name: String,
    },
    /// Send a packet on.
    Deliver {
        /// The packet's.
        id: u64,
        /// What to send instead: a whole frame of the same flow with right checksums.
        frame: Option<Vec<u8>>,
    },
    /// Drop a packet.
    Discard {
        /// The packet's.
        id: u64,
    },
    /// Do something else.
    Ask {
        /// Chosen by the agent; comes back in the answer.
        token: u64,
        /// What.
        request: Request,
    },
}

/// From the daemon to an agent.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum ToAgent {
    /// The agent is taken.
    Welcome {
        /// The daemon's [`PROTOCOL_VERSION`].
        version: u32,
    },
    /// The agent is not taken; the connection ends.
    Refused {
        /// Why, for people.
        reason: String,
    },
    /// A packet of a flow that it watches.
    Packet(Packet),
    /// What came of a request.
    Answer {
        /// The request's.
        token: u64,
        /// Or why it was not carried out.
        outcome: Result<Done, String>,
    },
    /// A synchronisation is complete.
    Synchronised {
        /// The request's.
        token: u64,
        /// Whether a backup has the state. A node without any has nobody to wait for.
        protected: bool,
    },
}
