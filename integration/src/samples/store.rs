//! `store`: stands in for redis-server where none is installed. GET, SET, INCR, PING over RESP, in memory, bounded.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::resp::{Reply, decode_command};
use super::serve::accept_loop;

/// Keys held at most; SET and INCR of further ones are refused.
const KEYS_MAX: usize = 100_000;

type Keys = Arc<Mutex<HashMap<Vec<u8>, Vec<u8>>>>;

/// Serves until SIGTERM.
///
/// # Errors
/// The address cannot be listened on.
pub async fn run(listen: SocketAddr) -> anyhow::Result<()> {
    let keys = Keys::default();
    accept_loop("store", listen, move |stream| serve(stream, Arc::clone(&keys))).await
}

async fn serve(mut stream: TcpStream, keys: Keys) {
    let mut buffer = BytesMut::with_capacity(4096);
    let mut out = Vec::new();
    loop {
        out.clear();
        let broken = loop {
            match decode_command(&mut buffer) {
                Ok(Some(command)) => answer(&command, &keys).encode(&mut out),
                Ok(None) => break false,
                Err(error) => {
                    Reply::Error(format!("ERR Protocol error: {error}")).encode(&mut out);
                    break true;
                }
            }
        };
        if stream.write_all(&out).await.is_err() || broken {
            return;
        }
        match stream.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

fn answer(command: &[Vec<u8>], keys: &Keys) -> Reply {
    let mut keys = keys.lock().unwrap_or_else(PoisonError::into_inner);
    let name = command.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
    match (name.as_slice(), command.get(1..).unwrap_or_default()) {
        (b"PING", []) => Reply::Simple("PONG".to_owned()),
        (b"GET", [key]) => Reply::Bulk(keys.get(key).cloned()),
        (b"SET" | b"INCR", [key, ..]) if keys.len() >= KEYS_MAX && !keys.contains_key(key) => {
            Reply::Error("OOM the store is full".to_owned())
        }
        (b"SET", [key, value]) => {
            keys.insert(key.clone(), value.clone());
            Reply::Simple("OK".to_owned())
        }
        (b"INCR", [key]) => increment(&mut keys, key),
        (b"PING" | b"GET" | b"SET" | b"INCR", _) => Reply::Error("ERR wrong number of arguments".to_owned()),
        _ => Reply::Error("ERR unknown command".to_owned()),
    }
}

fn increment(keys: &mut HashMap<Vec<u8>, Vec<u8>>, key: &[u8]) -> Reply {
    let old = keys.get(key).map_or(Some(0), |value| std::str::from_utf8(value).ok()?.parse::<i64>().ok());
    let Some(new) = old.and_then(|old| old.checked_add(1)) else {
        return Reply::Error("ERR value is not an integer or out of range".to_owned());
    };
    keys.insert(key.to_vec(), new.to_string().into_bytes());
    Reply::Integer(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_do_what_redis_does() {
        let keys = Keys::default();
        let check = |line: &str, expected: Reply| {
            let command: Vec<Vec<u8>> = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
            assert_eq!(answer(&command, &keys), expected, "{line}");
        };
        check("PING", Reply::Simple("PONG".to_owned()));
        check("get a", Reply::Bulk(None));
        check("SET a b", Reply::Simple("OK".to_owned()));
        check("GET a", Reply::Bulk(Some(b"b".to_vec())));
        check("INCR n", Reply::Integer(1));
        check("INCR n", Reply::Integer(2));
        check("INCR a", Reply::Error("ERR value is not an integer or out of range".to_owned()));
        check("GET", Reply::Error("ERR wrong number of arguments".to_owned()));
        check("FLUSHALL", Reply::Error("ERR unknown command".to_owned()));
    }
}
