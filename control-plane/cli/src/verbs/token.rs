//! `weft token create`.

use clap::{Args, Subcommand};
use weft_proto::v1::CreateTokenRequest;

use crate::cli::SocketArg;
use crate::client::{Clients, explain};

/// Verbs of `weft token`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a join token and print it: the proof with which a proxy outside Kubernetes gets its identity.
    Create(CreateArgs),
}

/// Flags of `token create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Namespace of the identity.
    #[arg(short, long)]
    pub namespace: String,
    /// Service account of the identity.
    #[arg(short, long)]
    pub service_account: String,
    /// How long the token is good for, such as 30m, 12h, 7d (at most 30 days).
    #[arg(long, default_value = "1h", value_parser = seconds)]
    pub ttl: u32,
    /// How many proxies may use it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub uses: u32,
    /// Where the control plane is.
    #[command(flatten)]
    pub socket: SocketArg,
}

/// Prints the token, and nothing else, on standard output.
///
/// # Errors
/// The control plane refuses, or there is none.
pub async fn create(args: &CreateArgs) -> anyhow::Result<()> {
    let mut clients = Clients::connect(&args.socket.path()).await?;
    let request = CreateTokenRequest {
        namespace: args.namespace.clone(),
        service_account: args.service_account.clone(),
        ttl_seconds: args.ttl,
        uses: args.uses,
    };
    println!("{}", clients.operator.create_token(request).await.map_err(explain)?.into_inner().join_token);
    Ok(())
}

/// Seconds of "90", "90s", "30m", "12h" or "7d".
fn seconds(text: &str) -> Result<u32, String> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number = text.strip_suffix(unit).unwrap_or(text);
    let factor: u32 = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err("expected a number with s, m, h or d".to_owned()),
    };
    let number: u32 = number.parse().map_err(|_| "expected a number with s, m, h or d".to_owned())?;
    number.checked_mul(factor).filter(|&seconds| seconds > 0).ok_or_else(|| "out of range".to_owned())
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn durations_have_units() {
        let check = |text: &str, expected: Option<u32>| assert_eq!(seconds(text).ok(), expected, "{text}");
        check("90", Some(90));
        check("30m", Some(1800));
        check("7d", Some(604_800));
        check("0", None);
        check("", None);
        check("h", None);
        check("1w", None);
        check("99999999d", None);
    }
}
