//! `weft proxies | dump | log-level`: questions to proxies, through the control plane.

use std::io::Write as _;

use clap::Args;
use weft_proto::v1::query::Query as Question;
use weft_proto::v1::{AskRequest, ConfigDump, LogLevel, ProxiesRequest, Query};

use crate::cli::SocketArg;
use crate::client::{Clients, explain};
use crate::table;

/// Chunks (64 KiB) that a proxy may send before the control plane grants more.
const INITIAL_CHUNKS: u32 = 16;

/// Flags of `proxies`.
#[derive(Debug, Args)]
pub struct ProxiesArgs {
    /// Where the control plane is.
    #[command(flatten)]
    pub socket: SocketArg,
}

/// Flags of `dump`.
#[derive(Debug, Args)]
pub struct DumpArgs {
    /// NAMESPACE/INSTANCE as `weft proxies` lists it.
    pub proxy: String,
    /// Where the control plane is.
    #[command(flatten)]
    pub socket: SocketArg,
}

/// Flags of `log-level`.
#[derive(Debug, Args)]
pub struct LogLevelArgs {
    /// NAMESPACE/INSTANCE as `weft proxies` lists it.
    pub proxy: String,
    /// A filter such as "info,weft_proxy=debug"; none: only show the present one.
    pub directive: Option<String>,
    /// Seconds after which the former one returns; 0: never.
    #[arg(long = "for", default_value_t = 0, value_name = "SECONDS")]
    pub for_seconds: u32,
    /// Where the control plane is.
    #[command(flatten)]
    pub socket: SocketArg,
}

/// Lists the proxies that can be asked.
///
/// # Errors
/// There is no control plane.
pub async fn proxies(args: &ProxiesArgs) -> anyhow::Result<()> {
    let mut clients = Clients::connect(&args.socket.path()).await?;
    let found = clients.diagnostics.proxies(ProxiesRequest {}).await.map_err(explain)?.into_inner().proxies;
    let rows = found
        .into_iter()
        .map(|one| vec![one.proxy, one.spiffe_id, one.build, one.acked_revision.to_string(), one.rejected.to_string()]);
    print!("{}", table::render(&["PROXY", "IDENTITY", "BUILD", "REVISION", "REJECTED"], &rows.collect::<Vec<_>>()));
    Ok(())
}

/// Prints a proxy's configuration as JSON.
///
/// # Errors
/// No such proxy, or it does not answer.
pub async fn dump(args: &DumpArgs) -> anyhow::Result<()> {
    ask(&args.socket, &args.proxy, Question::ConfigDump(ConfigDump {})).await
}

/// Shows or changes a proxy's log filter.
///
/// # Errors
/// No such proxy, or it refuses the filter.
pub async fn log_level(args: &LogLevelArgs) -> anyhow::Result<()> {
    let directive = args.directive.clone().unwrap_or_default();
    ask(&args.socket, &args.proxy, Question::LogLevel(LogLevel { directive, for_seconds: args.for_seconds })).await
}

/// Copies the answer to standard output as it comes.
async fn ask(socket: &SocketArg, proxy: &str, question: Question) -> anyhow::Result<()> {
    let mut clients = Clients::connect(&socket.path()).await?;
    let query = Query { initial_chunks: INITIAL_CHUNKS, query: Some(question) };
    let request = AskRequest { proxy: proxy.to_owned(), query: Some(query) };
    let mut answer = clients.diagnostics.ask(request).await.map_err(explain)?.into_inner();
    let mut ends_line = true;
    while let Some(chunk) = answer.message().await.map_err(explain)? {
        std::io::stdout().write_all(&chunk.data)?;
        ends_line = chunk.data.last().map_or(ends_line, |&last| last == b'\n');
    }
    if !ends_line {
        println!();
    }
    Ok(())
}
