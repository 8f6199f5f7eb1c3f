//! `blog`: a REST/JSON service on HTTP/1.1 that asks `user` by gRPC who wrote an article.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};

use super::headers::forward;
use super::serve::accept_loop;
use super::v1::GetUserRequest;
use super::v1::users_client::UsersClient;

/// (title, author's id); an article's id is its place, from 1.
const ARTICLES: [(&str, &str); 3] =
    [("On the analytical engine", "1"), ("The first compiler", "2"), ("Data abstraction", "3")];
/// How long one call to `user` may take.
const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// Which blog this is; v2 also rates its articles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Version {
    /// Title and author.
    #[default]
    V1,
    /// Title, author, rating.
    V2,
}

/// How `blog` behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens.
    pub listen: SocketAddr,
    /// URL of `user`, for example "http://user:50051".
    pub user: String,
    /// Which blog to be.
    pub version: Version,
}

#[derive(Clone)]
struct App {
    users: UsersClient<Channel>,
    version: Version,
    pod: String,
}

/// Serves until SIGTERM.
///
/// # Errors
/// The address cannot be listened on, or the URL of `user` is not one.
pub async fn run(options: Options) -> anyhow::Result<()> {
    // Lazily: `user` may start later than we do, and may move.
    let channel =
        Endpoint::from_shared(options.user)?.timeout(USER_TIMEOUT).connect_timeout(USER_TIMEOUT).connect_lazy();
    let app = App { users: UsersClient::new(channel), version: options.version, pod: super::pod_name() };
    accept_loop("blog", options.listen, move |stream| {
        let app = app.clone();
        let service = hyper::service::service_fn(move |request| {
            let app = app.clone();
            async move { Ok::<_, Infallible>(app.answer(&request).await) }
        });
        async move {
            let mut server = hyper::server::conn::http1::Builder::new();
            let connection = server.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                eprintln!("blog: connection ended: {error}");
            }
        }
    })
    .await
}

impl App {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return self.reply(StatusCode::METHOD_NOT_ALLOWED, json!({"error": "only GET and HEAD"}));
        }
        match path.strip_prefix("/articles") {
            None if path == "/" => self.reply(StatusCode::OK, json!({"articles": "/articles"})),
            Some("" | "/") => {
                let titles: Vec<Value> =
                    (1..).zip(ARTICLES).map(|(id, (title, _))| json!({"id": id, "title": title})).collect();
                self.reply(StatusCode::OK, json!({ "articles": titles }))
            }
            Some(rest) => self.article(rest.trim_start_matches('/'), request.headers()).await,
            None => self.reply(StatusCode::NOT_FOUND, json!({"error": "no such path; try /articles"})),
        }
    }

    async fn article(&self, id: &str, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let place = id.parse::<usize>().ok().and_then(|id| id.checked_sub(1));
        let Some((title, author)) = place.and_then(|place| ARTICLES.get(place)) else {
            return self.reply(StatusCode::NOT_FOUND, json!({"error": "no such article"}));
        };
        let mut call = tonic::Request::new(GetUserRequest { id: (*author).to_owned() });
        forward(headers, call.metadata_mut());
        match self.users.clone().get(call).await {
            Ok(user) => {
                let user = user.into_inner();
                let author = json!({"name": user.name, "reads": user.reads, "pod": user.pod});
                let mut article = json!({"id": id, "title": title, "author": author});
                if self.version == Version::V2
                    && let Some(fields) = article.as_object_mut()
                {
                    fields.insert("rating".to_owned(), json!(5));
                }
                self.reply(StatusCode::OK, json!({ "article": article }))
            }
            Err(status) => {
                let error = format!("user: {:?}: {}", status.code(), status.message());
                self.reply(StatusCode::BAD_GATEWAY, json!({ "error": error }))
            }
        }
    }

    fn reply(&self, status: StatusCode, mut body: Value) -> Response<Full<Bytes>> {
        if let Some(fields) = body.as_object_mut() {
            fields.insert("pod".to_owned(), json!(self.pod));
            let version = match self.version {
                Version::V1 => "v1",
                Version::V2 => "v2",
            };
            fields.insert("version".to_owned(), json!(version));
        }
        let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
        *response.status_mut() = status;
        response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        response
    }
}
