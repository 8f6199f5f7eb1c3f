//! `weft apply | validate | get | delete`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use weft_proto::v1::apply_response::Outcome;
use weft_proto::v1::{ApplyRequest, DeleteRequest, GetRequest, ListRequest, UserResource};

use crate::cli::SocketArg;
use crate::client::{Clients, explain};
use crate::resource::{self, Document};
use crate::table;

/// Flags of `apply` and `validate`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// YAML with one or more resources; "-" is standard input. Repeat for several.
    #[arg(short = 'f', long = "file", required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Namespace of resources that name none.
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// Where the control plane is.
    #[command(flatten)]
    pub socket: SocketArg,
}

/// Flags of `get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// Kind ("Service", or "v1/Service" as in apiVersion/kind); none: all kinds.
    pub kind: Option<String>,
    /// Name; none: all.
    pub name: Option<String>,
    /// Namespace. For a name the default is "default", for a list all.
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Where the control plane is.
    #[command(flatten)]
    pub socket: SocketArg,
}

/// Flags of `delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Kind ("Service", or "v1/Service" as in apiVersion/kind).
    #[arg(requires = "name", required_unless_present = "files")]
    pub kind: Option<String>,
    /// Name.
    pub name: Option<String>,
    /// Delete the resources of a file instead.
    #[arg(short = 'f', long = "file", value_name = "FILE", conflicts_with = "kind")]
    pub files: Vec<PathBuf>,
    /// Namespace.
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// Where the control plane is.
    #[command(flatten)]
    pub socket: SocketArg,
}

/// Form of output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// As it can be applied again.
    Yaml,
    /// The same as JSON, always a list.
    Json,
}

/// `weft apply`, and `weft validate` with `dry_run`. All files are parsed before anything is sent.
///
/// # Errors
/// A resource was refused; those before it are applied and reported.
pub async fn apply(args: &ApplyArgs, dry_run: bool) -> anyhow::Result<()> {
    let mut clients = Clients::connect(&args.socket.path()).await?;
    let mut refused = 0_usize;
    for document in read_all(&args.files)? {
        let request = ApplyRequest { resource: Some(document.to_message(&args.namespace)?) };
        let answer = if dry_run { clients.config.validate(request).await } else { clients.config.apply(request).await };
        match answer {
            Ok(answer) => println!("{}: {}", document.title(), outcome(answer.into_inner().outcome(), dry_run)),
            // Validation reports on all, applying stops at the first.
            Err(status) if dry_run => {
                refused += 1;
                println!("{}: {}", document.title(), status.message());
            }
            Err(status) => return Err(explain(status).context(document.title())),
        }
    }
    anyhow::ensure!(refused == 0, "{refused} resources would be refused");
    Ok(())
}

fn outcome(outcome: Outcome, dry_run: bool) -> &'static str {
    match (outcome, dry_run) {
        (Outcome::Created, false) => "created",
        (Outcome::Changed, false) => "changed",
        (Outcome::Unchanged, false) => "unchanged",
        (Outcome::Unspecified, false) => "applied",
        (Outcome::Created, true) => "valid, would be created",
        (Outcome::Changed, true) => "valid, would be changed",
        (Outcome::Unchanged, true) => "valid, is so already",
        (Outcome::Unspecified, true) => "valid",
    }
}

/// `weft get`.
///
/// # Errors
/// There is no such resource, or no control plane.
pub async fn get(args: &GetArgs) -> anyhow::Result<()> {
    let mut clients = Clients::connect(&args.socket.path()).await?;
    let (api_version, kind) = args.kind.as_deref().map_or((String::new(), String::new()), split_kind);
    let found: Vec<UserResource> = if let Some(name) = &args.name {
        let namespace = args.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let request = GetRequest { api_version, kind, namespace, name: name.clone() };
        vec![clients.config.get(request).await.map_err(explain)?.into_inner()]
    } else {
        let request = ListRequest { kind, namespace: args.namespace.clone().unwrap_or_default() };
        clients.config.list(request).await.map_err(explain)?.into_inner().resources
    };
    let documents: Vec<Document> = found.into_iter().map(Document::from_message).collect::<Result<_, _>>()?;
    print!("{}", format(&documents, args.output)?);
    Ok(())
}

fn format(documents: &[Document], output: Output) -> anyhow::Result<String> {
    Ok(match output {
        Output::Yaml => {
            let texts: Vec<String> = documents.iter().map(serde_saphyr::to_string).collect::<Result<_, _>>()?;
            texts.join("---\n")
        }
        Output::Json => serde_json::to_string_pretty(documents)? + "\n",
        Output::Table => {
            let row = |document: &Document| {
                let metadata = &document.metadata;
                vec![
                    document.kind.clone(),
                    metadata.namespace.clone().unwrap_or_default(),
                    metadata.name.clone(),
                    metadata.resource_version.clone().unwrap_or_default(),
                ]
            };
            let rows: Vec<Vec<String>> = documents.iter().map(row).collect();
            table::render(&["KIND", "NAMESPACE", "NAME", "REVISION"], &rows)
        }
    })
}

/// `weft delete`.
///
/// # Errors
/// There is no such resource, or no control plane.
pub async fn delete(args: &DeleteArgs) -> anyhow::Result<()> {
    let mut clients = Clients::connect(&args.socket.path()).await?;
    let mut requests = Vec::new();
    if let (Some(kind), Some(name)) = (&args.kind, &args.name) {
        let (api_version, kind) = split_kind(kind);
        let namespace = args.namespace.clone();
        requests.push(DeleteRequest { api_version, kind, namespace, name: name.clone(), revision: 0 });
    }
    for document in read_all(&args.files)? {
        let UserResource { api_version, kind, namespace, name, revision, .. } = document.to_message(&args.namespace)?;
        requests.push(DeleteRequest { api_version, kind, namespace, name, revision });
    }
    for request in requests {
        let title = format!("{} {}/{}", request.kind, request.namespace, request.name);
        clients.config.delete(request).await.map_err(|status| explain(status).context(title.clone()))?;
        println!("{title}: deleted");
    }
    Ok(())
}

fn read_all(files: &[PathBuf]) -> anyhow::Result<Vec<Document>> {
    let lists: Vec<Vec<Document>> = files.iter().map(|file| resource::read(file)).collect::<Result<_, _>>()?;
    Ok(lists.concat())
}

/// (apiVersion, kind) of "Service", "v1/Service" or "gateway.networking.k8s.io/v1/HTTPRoute". A bare kind that we know
/// gets its version.
fn split_kind(text: &str) -> (String, String) {
    if let Some((version, kind)) = text.rsplit_once('/') {
        return (version.to_owned(), kind.to_owned());
    }
    match text.to_ascii_lowercase().as_str() {
        "service" | "services" | "svc" => ("v1".to_owned(), "Service".to_owned()),
        "httproute" | "httproutes" => ("gateway.networking.k8s.io/v1".to_owned(), "HTTPRoute".to_owned()),
        _ => ("weft.dev/v1alpha1".to_owned(), text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found() {
        let check =
            |text: &str, version: &str, kind: &str| assert_eq!(split_kind(text), (version.to_owned(), kind.to_owned()));
        check("svc", "v1", "Service");
        check("v1/Service", "v1", "Service");
        check("gateway.networking.k8s.io/v1/HTTPRoute", "gateway.networking.k8s.io/v1", "HTTPRoute");
        check("TrafficPolicy", "weft.dev/v1alpha1", "TrafficPolicy");
    }

    #[test]
    fn what_is_printed_can_be_applied() {
        let yaml = "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: b}\nspec: {ports: [{port: 80}], on: 'yes'}\n";
        let documents = resource::parse(yaml).unwrap();
        let twice = [documents.clone(), documents].concat();
        assert_eq!(resource::parse(&format(&twice, Output::Yaml).unwrap()).unwrap(), twice);
        assert!(format(&twice, Output::Table).unwrap().contains("Service  b          a"));
    }
}
