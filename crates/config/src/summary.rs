//! What has to be prepared before the daemon starts, for the boot script.

use serde::Serialize;

use crate::{Config, Device, Idle};

/// The facts of a configuration that concern the machine. Serialised with these names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Whether huge pages are needed.
    pub hugepages: bool,
    /// How much memory, in MiB.
    pub memory_mb: u32,
    /// The PCI devices that must be bound to a driver for user space.
    pub pci: Vec<String>,
    /// The cpus of the workers, by worker.
    pub worker_cpus: Vec<u16>,
    /// The cpu of the sync core, if there is one.
    pub sync_cpu: Option<u16>,
    /// The cpu of the membership core, if there is one.
    pub membership_cpu: Option<u16>,
    /// What workers do when idle by default: `spin`, `pause` or `sleep`.
    pub idle: &'static str,
}

impl Config {
    /// The facts for the boot script.
    pub fn summary(&self) -> Summary {
        let mut pci: Vec<String> = vec![];
        for interface in &self.interfaces {
            // Interfaces that VLANs tell apart have one device.
            if let Device::Pci(address) = &interface.device
                && !pci.contains(address)
            {
                pci.push(address.clone());
            }
        }
        Summary {
            hugepages: self.eal.hugepages,
            memory_mb: self.eal.memory_mb,
            pci,
            worker_cpus: self.cores.workers.iter().map(|worker| worker.cpu).collect(),
            sync_cpu: self.cores.sync,
            membership_cpu: self.cores.membership,
            idle: match self.cores.idle {
                Idle::Spin => "spin",
                Idle::Pause => "pause",
                Idle::Sleep(_) => "sleep",
            },
        }
    }
}
