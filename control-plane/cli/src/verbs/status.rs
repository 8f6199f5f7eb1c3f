//! `weft status`.

use clap::Args;
use weft_proto::v1::{StatusRequest, StatusResponse};

use crate::cli::SocketArg;
use crate::client::{Clients, explain};
use crate::table;

/// Flags of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Where the control plane is.
    #[command(flatten)]
    pub socket: SocketArg,
}

/// Prints what the control plane knows.
///
/// # Errors
/// There is no control plane.
pub async fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let mut clients = Clients::connect(&args.socket.path()).await?;
    print!("{}", render(clients.operator.status(StatusRequest {}).await.map_err(explain)?.into_inner()));
    Ok(())
}

fn render(status: StatusResponse) -> String {
    let instances = status.instances.into_iter().map(|one| {
        let ready = if one.ready { "ready" } else { "not ready" };
        vec![one.namespace, one.instance_id, one.service_account, one.addresses.join(","), ready.to_owned()]
    });
    let services = status
        .services
        .into_iter()
        .map(|one| vec![one.namespace, one.name, one.virtual_ips.join(","), one.endpoints.to_string()]);
    format!(
        "control plane {}, trust domain {}, revision {}, {} proxies connected\n\n{}\n{}",
        status.build,
        status.trust_domain,
        status.revision,
        status.connected_proxies,
        table::render(&["NAMESPACE", "SERVICE", "VIRTUAL IPS", "ENDPOINTS"], &services.collect::<Vec<_>>()),
        table::render(
            &["NAMESPACE", "INSTANCE", "SERVICE ACCOUNT", "ADDRESSES", "STATE"],
            &instances.collect::<Vec<_>>()
        ),
    )
}
