//! `weft-proxy`: the sidecar and gateway of the Weft service mesh.

use clap::Parser as _;
use weft_proxy::bootstrap::{Cli, Command};

/// The C library's allocator keeps what a burst needed for ever; this one returns it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Freed pages go back within about a second, also when nothing happens any more (a thread of jemalloc's own sees to it,
/// and sleeps when there is nothing to return). Of sizes between 2 and 8 KiB, where each request has its future, a thread
/// keeps 32 to 128 freed ones at hand, instead of 20 by default, and looks after each MiB what of all that it does not
/// need: else every turn of a busy worker goes to the arena for what the turn before gave back. `MALLOC_CONF` in the
/// environment overrides.
#[allow(
    unsafe_code,
    reason = "jemalloc reads its settings from a symbol of this name; it holds a C string, never written"
)]
#[unsafe(export_name = "malloc_conf")]
static SETTINGS: &[u8; 137] = b"background_thread:true,max_background_threads:1,dirty_decay_ms:1000,muzzy_decay_ms:0,\
    lg_tcache_nslots_mul:4,tcache_gc_incr_bytes:1048576\0";

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Run(args) => weft_proxy::run::run(*args),
        Command::Init(args) => args.run(),
    }
}
