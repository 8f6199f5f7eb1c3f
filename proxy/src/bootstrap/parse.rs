//! Values of flags that clap does not know.

use std::num::NonZeroU16;
use std::str::FromStr;

use weft_core::model::decode::app_protocol;
use weft_core::model::{AppProtocol, ServiceKey};

/// `PORT[=PROTOCOL]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppPort {
    /// Port the application listens on.
    pub port: NonZeroU16,
    /// What it speaks there.
    pub protocol: AppProtocol,
}

impl FromStr for AppPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (port, protocol) = text.split_once('=').unwrap_or((text, ""));
        let port = port.parse().map_err(|_| format!("{port:?} is no port (1-65535)"))?;
        let protocol = app_protocol(protocol)
            .ok_or_else(|| format!("{protocol:?} is no protocol; write http, kubernetes.io/h2c or tcp"))?;
        Ok(Self { port, protocol })
    }
}

/// `NAMESPACE/NAME[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceTarget {
    /// The service.
    pub service: ServiceKey,
    /// One of its ports; `None`: its first.
    pub port: Option<NonZeroU16>,
}

pub(super) fn service_target(text: &str) -> Result<ServiceTarget, String> {
    let form = || format!("{text:?} is no service; write NAMESPACE/NAME or NAMESPACE/NAME:PORT");
    let (key, port) = match text.rsplit_once(':') {
        Some((key, port)) => (key, Some(port.parse().map_err(|_| form())?)),
        None => (text, None),
    };
    let (namespace, name) = key.split_once('/').ok_or_else(form)?;
    if namespace.is_empty() || name.is_empty() || name.contains('/') {
        return Err(form());
    }
    Ok(ServiceTarget { service: ServiceKey { namespace: namespace.into(), name: name.into() }, port })
}

pub(super) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err(format!("{text:?} is no label; write KEY=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use crate::bootstrap::Cli;
    use clap::{CommandFactory as _, Parser as _};

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn required_flags_depend_on_the_role() {
        let check = |args: &str, expected: Result<(), &str>| {
            let parsed = Cli::try_parse_from(args.split_whitespace()).map(|_| ()).map_err(|error| error.to_string());
            match (parsed, expected) {
                (Ok(()), Ok(())) => {}
                (Err(text), Err(part)) => assert!(text.contains(part), "{args}: {text}"),
                (got, _) => panic!("{args}: {got:?}"),
            }
        };
        check("weft-proxy run --static f.yaml", Ok(()));
        check("weft-proxy run --control-plane a:1 --app-port 80=http --app-port 81 --label a=b", Ok(()));
        check("weft-proxy run", Err("--control-plane"));
        check("weft-proxy run --static f.yaml --control-plane a:1", Err("cannot be used with"));
        check("weft-proxy run --role gateway --control-plane a:1", Err("--listen"));
        check("weft-proxy run --role gateway --control-plane a:1 --listen 1.2.3.4:5 --service a/b:6", Ok(()));
        let gateway = "weft-proxy run --role gateway --control-plane a:1 --service a/b";
        check(&format!("{gateway} --listen-fd 3"), Ok(()));
        check(&format!("{gateway} --listen-fd -1"), Err("-1"));
        check(&format!("{gateway} --listen-fd 3 --listen 1.2.3.4:5"), Err("cannot be used with"));
        check("weft-proxy run --control-plane a:1 --app-port 0", Err("no port"));
        check("weft-proxy run --control-plane a:1 --app-port 1=ftp", Err("no protocol"));
        check("weft-proxy run --control-plane a:1 --service x", Err("no service"));
        check("weft-proxy run --control-plane a:1 --join-token x", Err("weft1."));
    }
}
