//! Listeners of static mode.

use std::net::SocketAddr;

use weft_proto::v1;

use super::{APP_PROTOCOL_FORM, Path, Problems, app_protocol, clip, port, required_text, service_key};
use crate::model::{InboundMode, ListenerRole, ListenerSpec};

/// Checks and takes a listener.
///
/// # Errors
/// Every problem with its field path.
pub fn listener(message: &v1::Listener) -> Result<ListenerSpec, Problems> {
    let mut problems = Problems::default();
    let root = Path::root();
    let name = required_text(&mut problems, &root.field("name"), &message.name);
    let address = address(&mut problems, &root.field("address"), &message.address);
    let role = match &message.role {
        Some(v1::listener::Role::ReverseProxy(to)) => {
            let (service, port) = service_ref(&mut problems, &root.field("reverseProxy"), to);
            service.zip(port).map(|(service, port)| ListenerRole::ReverseProxy(service, port))
        }
        Some(v1::listener::Role::Outbound(to)) => {
            let (service, port) = service_ref(&mut problems, &root.field("outbound"), to);
            service.zip(port).map(|(service, port)| ListenerRole::Outbound(service, port))
        }
        Some(v1::listener::Role::Inbound(to)) => inbound(&mut problems, &root.field("inbound"), to),
        None => problems.add_or(&root, "needs one of reverseProxy, outbound, inbound", None),
    };
    problems.finish((|| Some(ListenerSpec { name: name?, address: address?, role: role? }))())
}

type ServicePortRef = (Option<crate::model::ServiceKey>, Option<std::num::NonZeroU16>);

fn service_ref(problems: &mut Problems, path: &Path<'_>, message: &v1::ServiceRef) -> ServicePortRef {
    let names = ((&path.field("namespace"), &*message.namespace), (&path.field("name"), &*message.name));
    (service_key(problems, names.0, names.1), port(problems, &path.field("port"), message.port))
}

fn inbound(problems: &mut Problems, path: &Path<'_>, message: &v1::InboundTarget) -> Option<ListenerRole> {
    let to = address(problems, &path.field("address"), &message.address);
    if to.is_some_and(|to| to.port() == 0) {
        problems.add(&path.field("address"), "needs the application's port");
    }
    let protocol =
        problems.keep(&path.field("appProtocol"), app_protocol(&message.app_protocol).ok_or(APP_PROTOCOL_FORM));
    let mode = match v1::InboundMode::try_from(message.mode) {
        Ok(v1::InboundMode::Unspecified | v1::InboundMode::Permissive) => InboundMode::Permissive,
        Ok(v1::InboundMode::Strict) => InboundMode::Strict,
        Err(_) => problems.add_or(&path.field("mode"), "unknown mode", InboundMode::Strict),
    };
    Some(ListenerRole::Inbound { address: to?, protocol: protocol?, mode })
}

fn address(problems: &mut Problems, path: &Path<'_>, text: &str) -> Option<SocketAddr> {
    let parsed =
        text.parse().map_err(|_| format!("{:?} is no IP:port such as 127.0.0.1:8080 or [::1]:8080", clip(text)));
    problems.keep(path, parsed)
}
