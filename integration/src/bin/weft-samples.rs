//! `weft-samples`: the applications of the demo in one binary; see `weft_integration::samples`.

use std::net::SocketAddr;

use clap::{Parser, Subcommand};
use weft_integration::samples::{blog, store, user};

/// The sample applications of the Weft demo.
#[derive(Debug, Parser)]
#[command(name = "weft-samples", version)]
struct Cli {
    #[command(subcommand)]
    app: App,
}

#[derive(Debug, Subcommand)]
enum App {
    /// REST/JSON on HTTP/1.1; asks `user`.
    Blog {
        #[arg(long, env = "LISTEN", default_value = "0.0.0.0:8080")]
        listen: SocketAddr,
        /// URL of `user`.
        #[arg(long, env = "USER_URL", default_value = "http://user:50051")]
        user: String,
        /// v2 adds a rating to each article.
        #[arg(long = "version", env = "BLOG_VERSION", value_enum, default_value_t)]
        version: blog::Version,
    },
    /// gRPC; asks `store`.
    User {
        #[arg(long, env = "LISTEN", default_value = "0.0.0.0:50051")]
        listen: SocketAddr,
        /// HOST:PORT of the store.
        #[arg(long, env = "STORE", default_value = "store:6379")]
        store: String,
        /// Fail every third call.
        #[arg(long)]
        flaky: bool,
    },
    /// Stands in for redis-server: GET, SET, INCR, PING.
    Store {
        #[arg(long, env = "LISTEN", default_value = "0.0.0.0:6379")]
        listen: SocketAddr,
    },
}

fn main() -> anyhow::Result<()> {
    let app = Cli::parse().app;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match app {
            App::Blog { listen, user, version } => blog::run(blog::Options { listen, user, version }).await,
            App::User { listen, store, flaky } => user::run(user::Options { listen, store, flaky }).await,
            App::Store { listen } => store::run(listen).await,
        }
    })
}
