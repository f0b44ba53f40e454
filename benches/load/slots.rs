//! What a VM slot of a Proxy-Wasm filter keeps in memory.

use std::fmt;
use std::time::Duration;

use crate::client::Client;
use crate::config::{self, Filter};
use crate::process::{self, Memory};
use crate::{Result, Site};

/// What `--only` calls it.
pub const NAME: &str = "vm-slot";

const SLOTS: usize = 64;

/// What one slot adds to the process, in KiB.
pub struct SlotMemory(Memory);

impl SlotMemory {
    /// The difference between a proxy with one slot and one with many more. Each slot has a filter of the same code, and every
    /// request passes all of them, so that each has touched what it needs: with `instances` instead, a worker thread would
    /// use one slot and leave the others as they have started.
    pub fn measure(site: &Site) -> Result<SlotMemory> {
        let with = |slots: usize| -> Result<Memory> {
            let addr = process::free_addr()?;
            let filters = (0..slots).map(|slot| Filter { header: "x-filter-0".into(), vm_id: slot.to_string() });
            let config = config::filters(filters, addr, site.origin)?;
            let mut proxy = site.phasegate(&format!("slots-{slots}"), &config)?;
            proxy.listens_on(addr)?;
            site.runtime.block_on(async { Client::connect(addr).await?.load(Duration::from_secs(1)).await })?;
            Ok(proxy.memory()?)
        };
        let (one, many) = (with(1)?, with(1 + SLOTS)?);
        let each = |one, many| (many - one) / SLOTS as f64;
        Ok(SlotMemory(Memory { rss: each(one.rss, many.rss), pss: each(one.pss, many.pss) }))
    }
}

impl fmt::Display for SlotMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Memory { rss, pss } = self.0;
        write!(
            f,
            "A VM slot keeps {rss:.0} KiB resident, {pss:.0} KiB with what slots share counted once (mean of {SLOTS})."
        )
    }
}
