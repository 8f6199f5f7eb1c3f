//! From workers to the sink: each worker appends to a buffer of its own, one thread empties the buffers.
//!
//! The worker wakes that thread only when its buffer was empty, so a busy proxy pays one wake-up for many records, and an
//! idle one nothing. The buffer is bounded; when the sink is blocked, records are refused instead of kept.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

/// Bytes that wait for the sink per worker: some 5,000 records, a second of heavy traffic.
const BUFFER_BYTES_MAX: usize = 4 << 20;

/// How long the writing thread lets records gather after the first, so that one write carries many.
const GATHER: Duration = Duration::from_millis(20);

/// Where records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output.
    Stdout,
    /// Appended to a file, created with mode 0640.
    File(PathBuf),
}

type Buffers = Mutex<Vec<Arc<Mutex<Vec<u8>>>>>;

/// The writing thread. Dropping it writes what is left and ends it.
#[derive(Debug)]
pub struct AccessLog {
    buffers: Arc<Buffers>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl AccessLog {
    /// Opens the sink and starts the thread.
    ///
    /// # Errors
    /// When the file cannot be opened or the thread not started.
    pub fn start(target: &LogTarget) -> io::Result<Self> {
        let sink = open(target)?;
        let buffers = Arc::new(Buffers::default());
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new().name("access-log".to_owned()).spawn({
            let (buffers, stop) = (Arc::clone(&buffers), Arc::clone(&stop));
            move || drain(&buffers, &stop, sink)
        })?;
        Ok(Self { buffers, stop, thread: Some(thread) })
    }

    /// What a worker thread makes its writer of.
    #[must_use]
    pub fn handle(&self) -> LogHandle {
        LogHandle {
            buffers: Arc::clone(&self.buffers),
            thread: self.thread.as_ref().map(|thread| thread.thread().clone()),
        }
    }
}

/// Leads to the log; can be sent to another thread.
#[derive(Clone, Debug)]
pub struct LogHandle {
    buffers: Arc<Buffers>,
    thread: Option<Thread>,
}

impl LogHandle {
    /// A buffer for one worker.
    pub(super) fn writer(&self) -> Writer {
        let buffer = Arc::new(Mutex::new(Vec::new()));
        lock(&self.buffers).push(Arc::clone(&buffer));
        Writer { buffer, thread: self.thread.clone() }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic of the thread has been reported by then; there is nothing left to save.
            drop(thread.join());
        }
    }
}

/// A worker's end.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    buffer: Arc<Mutex<Vec<u8>>>,
    thread: Option<Thread>,
}

impl Writer {
    /// Lets `format` append one record. False when the buffer is full and the record was dropped.
    pub(super) fn write(&self, format: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut buffer = lock(&self.buffer);
        if buffer.len() >= BUFFER_BYTES_MAX {
            return false;
        }
        let was_empty = buffer.is_empty();
        format(&mut buffer);
        drop(buffer);
        if was_empty && let Some(thread) = &self.thread {
            thread.unpark();
        }
        true
    }
}

fn open(target: &LogTarget) -> io::Result<Box<dyn Write + Send>> {
    Ok(match target {
        LogTarget::Stdout => Box::new(io::stdout()),
        LogTarget::File(path) => {
            let file: File = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
            Box::new(file)
        }
    })
}

fn drain(buffers: &Buffers, stop: &AtomicBool, mut sink: Box<dyn Write + Send>) {
    let mut batch = Vec::new();
    let mut complained = false;
    loop {
        let stopping = stop.load(Ordering::Acquire);
        let mut wrote = false;
        let all: Vec<_> = lock(buffers).clone();
        for buffer in all {
            std::mem::swap(&mut *lock(&buffer), &mut batch);
            if batch.is_empty() {
                continue;
            }
            wrote = true;
            if let Err(error) = sink.write_all(&batch).and_then(|()| sink.flush()) {
                if !complained {
                    tracing::warn!(%error, "access log cannot be written; records are lost until it can");
                }
                complained = true;
            } else {
                complained = false;
            }
            batch.clear();
            batch.shrink_to(BUFFER_BYTES_MAX / 16);
        }
        if stopping {
            return;
        }
        if wrote {
            thread::sleep(GATHER);
        } else {
            thread::park();
            if !stop.load(Ordering::Acquire) {
                thread::sleep(GATHER);
            }
        }
    }
}

/// A buffer is whole after every append, so a poisoned lock is no reason to lose records.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_is_written_by_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.jsonl");
        let log = AccessLog::start(&LogTarget::File(path.clone())).unwrap();
        let writers: Vec<_> = (0..2).map(|_| log.handle().writer()).collect();
        for index in 0..100 {
            for writer in &writers {
                assert!(writer.write(|out| out.extend_from_slice(format!("{index}\n").as_bytes())));
            }
        }
        drop(log);
        assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 200);
    }

    #[test]
    fn a_blocked_sink_bounds_memory() {
        let writer = Writer { buffer: Arc::default(), thread: None };
        let record = vec![b'x'; 1 << 20];
        let kept = (0..100).filter(|_| writer.write(|out| out.extend_from_slice(&record))).count();
        assert_eq!(kept, 4);
    }
}
