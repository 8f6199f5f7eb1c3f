//! From workers to the sink: each worker appends to a buffer of its own, one thread empties the buffers.
//!
//! The worker wakes that thread only when its buffer was empty or is well filled, so a busy proxy pays one wake-up for many
//! records, and an idle one nothing. The buffer is bounded; when the sink is blocked, records are refused instead of kept.
//!
//! Both run on the same processors: while the thread writes, requests wait. So it writes little at a time, which is also
//! still in the processor's cache then, and for which the kernel finds memory that was in use before.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

/// Bytes that wait for the sink per worker: some 5,000 records, a second of heavy traffic.
const BUFFER_BYTES_MAX: usize = 4 << 20;

/// How long the writing thread lets records gather after the first, so that one write carries many.
const GATHER: Duration = Duration::from_millis(20);

/// So many bytes of one worker are written without waiting for more.
const GATHERED_BYTES: usize = 48 * 1024;

/// Bytes of one write.
const WRITE_BYTES_MAX: usize = 64 * 1024;

/// Where records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output.
    Stdout,
    /// Appended to a file, created with mode 0640.
    File(PathBuf),
}

type Buffers = Mutex<Vec<Arc<Mutex<Vec<u8>>>>>;

/// Whether some worker has gathered enough.
#[derive(Debug, Default)]
struct Enough {
    said: Mutex<bool>,
    heard: Condvar,
}

impl Enough {
    fn say(&self) {
        *lock(&self.said) = true;
        self.heard.notify_one();
    }

    /// Waits for it, for at most [`GATHER`].
    fn wait(&self) {
        let waited = self.heard.wait_timeout_while(lock(&self.said), GATHER, |said| !*said);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }
}

/// The writing thread. Dropping it writes what is left and ends it.
#[derive(Debug)]
pub struct AccessLog {
    buffers: Arc<Buffers>,
    enough: Arc<Enough>,
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
        let (enough, stop) = (Arc::new(Enough::default()), Arc::new(AtomicBool::new(false)));
        let thread = thread::Builder::new().name("access-log".to_owned()).spawn({
            let (buffers, enough, stop) = (Arc::clone(&buffers), Arc::clone(&enough), Arc::clone(&stop));
            move || drain(&buffers, &enough, &stop, sink)
        })?;
        Ok(Self { buffers, enough, stop, thread: Some(thread) })
    }

    /// What a worker thread makes its writer of.
    #[must_use]
    pub fn handle(&self) -> LogHandle {
        LogHandle {
            buffers: Arc::clone(&self.buffers),
            enough: Arc::clone(&self.enough),
            thread: self.thread.as_ref().map(|thread| thread.thread().clone()),
        }
    }
}

/// Leads to the log; can be sent to another thread.
#[derive(Clone, Debug)]
pub struct LogHandle {
    buffers: Arc<Buffers>,
    enough: Arc<Enough>,
    thread: Option<Thread>,
}

impl LogHandle {
    /// A buffer for one worker.
    pub(super) fn writer(&self) -> Writer {
        let buffer = Arc::new(Mutex::new(Vec::new()));
        lock(&self.buffers).push(Arc::clone(&buffer));
        Writer { buffer, enough: Arc::clone(&self.enough), thread: self.thread.clone() }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            self.enough.say();
            // A panic of the thread has been reported by then; there is nothing left to save.
            drop(thread.join());
        }
    }
}

/// A worker's end.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    buffer: Arc<Mutex<Vec<u8>>>,
    enough: Arc<Enough>,
    thread: Option<Thread>,
}

impl Writer {
    /// Lets `format` append one record. False when the buffer is full and the record was dropped.
    pub(super) fn write(&self, format: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut buffer = lock(&self.buffer);
        if buffer.len() >= BUFFER_BYTES_MAX {
            return false;
        }
        let before = buffer.len();
        format(&mut buffer);
        let after = buffer.len();
        drop(buffer);
        if before == 0
            && let Some(thread) = &self.thread
        {
            thread.unpark();
        }
        if before < GATHERED_BYTES && after >= GATHERED_BYTES {
            self.enough.say();
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

fn drain(buffers: &Buffers, enough: &Enough, stop: &AtomicBool, mut sink: Box<dyn Write + Send>) {
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
            if let Err(error) = write(&mut *sink, &batch) {
                if !complained {
                    tracing::warn!(%error, "access log cannot be written; records are lost until it can");
                }
                complained = true;
            } else {
                complained = false;
            }
            batch.clear();
            batch.shrink_to(WRITE_BYTES_MAX);
        }
        if stopping {
            return;
        }
        if !wrote {
            thread::park();
        }
        if !stop.load(Ordering::Acquire) {
            enough.wait();
        }
    }
}

/// Writes whole records, several at once.
fn write(sink: &mut dyn Write, mut records: &[u8]) -> io::Result<()> {
    while !records.is_empty() {
        let most = records.get(..WRITE_BYTES_MAX).unwrap_or(records);
        // One that is larger goes in one piece.
        let end =
            most.iter().rposition(|byte| *byte == b'\n').or_else(|| records.iter().position(|byte| *byte == b'\n'));
        let (piece, rest) = records.split_at(end.map_or(records.len(), |end| end + 1));
        sink.write_all(piece)?;
        records = rest;
    }
    sink.flush()
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
    fn writes_are_of_whole_records_and_none_is_large() {
        #[derive(Default)]
        struct Pieces(Vec<Vec<u8>>);
        impl Write for Pieces {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.push(bytes.to_vec());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let record = |len: usize| [vec![b'x'; len], vec![b'\n']].concat();
        let records = [vec![record(600); 500], vec![record(2 * WRITE_BYTES_MAX), record(3)]].concat().concat();
        let mut pieces = Pieces::default();
        write(&mut pieces, &records).unwrap();
        assert_eq!(pieces.0.concat(), records);
        assert!(pieces.0.iter().all(|piece| piece.ends_with(b"\n")));
        let large = pieces.0.iter().filter(|piece| piece.len() > WRITE_BYTES_MAX).count();
        assert_eq!((large, pieces.0.len()), (1, 7));
    }

    #[test]
    fn much_at_once_is_not_waited_with() {
        let writer = Writer { buffer: Arc::default(), enough: Arc::default(), thread: None };
        for (bytes, expected) in [(GATHERED_BYTES - 1, false), (1, true)] {
            assert!(writer.write(|out| out.resize(out.len() + bytes, b'x')));
            assert_eq!(*lock(&writer.enough.said), expected);
        }
        writer.enough.wait();
        assert!(!*lock(&writer.enough.said));
    }

    #[test]
    fn a_blocked_sink_bounds_memory() {
        let writer = Writer { buffer: Arc::default(), enough: Arc::default(), thread: None };
        let record = vec![b'x'; 1 << 20];
        let kept = (0..100).filter(|_| writer.write(|out| out.extend_from_slice(&record))).count();
        assert_eq!(kept, 4);
    }
}
