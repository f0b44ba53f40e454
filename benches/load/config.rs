//! Configuration files of Phasegate.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::variant::{Count, Scripts};

/// The scripts of `Count::Six` in their phases. `wasm_serverless` is not among them: it ends the request.
const SIX: [(&str, &[&str]); 5] = [
    ("wasm_access", &["rewrite_one", "rewrite_one"]),
    ("wasm_http_in_headers", &["rewrite_one"]),
    ("wasm_http_filter_headers_pre", &["rewrite_out"]),
    ("wasm_http_filter_headers", &["rewrite_out"]),
    ("wasm_access_log", &["read_out"]),
];

const ONE: [(&str, &[&str]); 1] = [("wasm_access", &["rewrite_one"])];

/// The module of all filters.
pub const FILTER: &str = "pw_one_header";

/// A Proxy-Wasm filter of the chain.
pub struct Filter {
    /// The header that it sets.
    pub header: String,
    /// Those with the same share their VMs.
    pub vm_id: String,
}

impl Filter {
    /// So many in the same VMs, each with a header of its own.
    pub fn chain(count: usize) -> impl Iterator<Item = Filter> {
        (0..count).map(|index| Filter { header: format!("x-filter-{index}"), vm_id: "shared".into() })
    }
}

/// Phasegate with scripts.
pub fn scripts(scripts: Scripts, listen: SocketAddr, origin: SocketAddr) -> Result<String> {
    let mut config = proxy(listen, origin);
    let chains: &[(&str, &[&str])] = match scripts.count {
        Count::None => &[],
        Count::One => &ONE,
        Count::Six => &SIX,
    };
    for (phase, guests) in chains {
        for (index, guest) in guests.iter().enumerate() {
            let (module, instance) = (module(guest)?, scripts.instance);
            write!(
                config,
                "[[server.local.{phase}]]\nname = \"{guest}-{index}\"\nwasm_path = '{}'\ninstance = \"{instance}\"\n",
                module.display()
            )?;
        }
    }
    Ok(config)
}

/// Phasegate with Proxy-Wasm filters, in as many VMs as there are by default.
pub fn filters(filters: impl IntoIterator<Item = Filter>, listen: SocketAddr, origin: SocketAddr) -> Result<String> {
    let mut config = proxy(listen, origin);
    for (index, Filter { header, vm_id }) in filters.into_iter().enumerate() {
        write!(
            config,
            "[[server.local.proxy_wasm]]\nname = \"filter-{index}\"\nwasm_path = '{}'\nvm_id = \"{vm_id}\"\n\
             configuration = \"{header}\"\n",
            module(FILTER)?.display()
        )?;
    }
    Ok(config)
}

/// The file of a guest.
pub fn module(guest: &str) -> Result<PathBuf> {
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests");
    let file = guests.join(format!("target/wasm32-wasip1/release/{guest}.wasm"));
    if !file.exists() {
        return Err(format!(
            "{} is not there: build it with cargo build --target wasm32-wasip1 --release in {}",
            file.display(),
            guests.display()
        )
        .into());
    }
    Ok(file)
}

fn proxy(listen: SocketAddr, origin: SocketAddr) -> String {
    format!(
        "threads = 1\nerror_log = \"warn\"\n[[server]]\nlisten = [{{ addr = \"{listen}\" }}]\n\
         [[server.local]]\npath = \"/\"\nproxy_pass = \"{origin}\"\n"
    )
}
