//! One call of a plugin through the library, isolated from the proxy, and what an idle instance keeps in memory.

mod memory;
mod plugin;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group};
use phasegate::exchange::Shared;

use self::plugin::{exchange, script};

/// As in the proxy.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let host = plugin::host();
    let module = plugin::load(&host);
    memory::report(&host, &module);
    calls();
    Criterion::default().configure_from_args().final_summary();
}

criterion_group!(calls, call);

fn call(criterion: &mut Criterion) {
    let host = plugin::host();
    let module = plugin::load(&host);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let mut group = criterion.benchmark_group("call");
    for (instance, fresh) in [("reuse", false), ("fresh", true)] {
        let script = script(&host, &module, fresh);
        assert!(script.is_synchronous(), "`rewrite_one` imports nothing that waits");
        group.bench_function(format!("{instance}, synchronous"), |bencher| {
            bencher.iter_custom(|calls| {
                timed(calls, |exchange| exchange.iter().for_each(|exchange| plugin::ok(script.run_now(exchange))))
            });
        });
        group.bench_function(format!("{instance}, asynchronous"), |bencher| {
            bencher.iter_custom(|calls| {
                timed(calls, |exchanges| {
                    runtime.block_on(async {
                        for exchange in exchanges {
                            plugin::ok(script.run(exchange).await);
                        }
                    });
                })
            });
        });
    }
    group.finish();
}

/// The time of this many calls, each on a request of its own: the plugin adds a header.
fn timed(calls: u64, mut run: impl FnMut(&[Shared])) -> Duration {
    const BATCH: u64 = 64;
    let mut total = Duration::ZERO;
    let mut left = calls;
    while left > 0 {
        let batch: Vec<Shared> = (0..left.min(BATCH)).map(|_| exchange()).collect();
        let start = Instant::now();
        run(black_box(&batch));
        total += start.elapsed();
        left -= batch.len() as u64;
    }
    total
}
