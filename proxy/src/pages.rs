//! Pages of the program that only starting needs.
//!
//! The kernel maps a program in pieces of 64 KiB wherever it is first touched, and keeps them mapped. At rest most of what
//! a proxy has in memory is of that kind: reading flags, obtaining an identity, and their neighbours. Let go of, such
//! pages stay in the kernel's cache as long as nobody needs the memory, and what the proxy touches again is mapped again.

use std::ffi::c_void;
use std::io;
use std::path::Path;
use std::ptr::NonNull;
use std::time::Duration;

use nix::sys::mman::{MmapAdvise, madvise};
use tokio::sync::watch;

/// From being ready to having said so to whom it concerns.
const START_SETTLES: Duration = Duration::from_millis(500);

/// [`release`], once there is an identity and the mesh is known: most of the program that was in use was so for the last
/// time.
pub async fn release_after_start(mut ready: watch::Receiver<bool>) {
    if ready.wait_for(|ready| *ready).await.is_err() {
        return;
    }
    tokio::time::sleep(START_SETTLES).await;
    if let Err(error) = release() {
        tracing::debug!(%error, "pages of the program are kept");
    }
}

/// Lets go of all pages of the program's file that are nowhere but there. Takes well below a millisecond.
///
/// # Errors
/// The mappings cannot be read, or the kernel refuses; the proxy goes on as before.
pub fn release() -> io::Result<()> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    releasable(&smaps, &program).into_iter().try_for_each(|(start, end)| let_go(start, end))
}

/// From where to where the program lies and has only what its file has: not to be written to, and not written to before
/// it became so, as tables of addresses are by the loader.
fn releasable(smaps: &str, program: &Path) -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    let mut lines = smaps.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(mapping) = mapping(line, program) else { continue };
        // The figures of a mapping follow it; both of these must be there.
        let mut own = 0;
        while let Some((name, kib)) = lines.peek().and_then(|line| figure(line)) {
            own += usize::from(matches!(name, "Anonymous" | "Swap") && kib == "0 kB");
            lines.next();
        }
        found.extend((own == 2).then_some(mapping));
    }
    found
}

/// The first line of a mapping of `program` that cannot be written to: `start-end r-xp offset device inode path`.
fn mapping(line: &str, program: &Path) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let permissions = words.next()?;
    let path = line.split_once('/').map(|(_, path)| Path::new("/").join(path))?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    let fits = matches!(permissions, "r--p" | "r-xp") && path == program;
    fits.then_some((number(start)?, number(end)?))
}

/// `Name:   value`.
fn figure(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(':')?;
    // What stands in the first line of a mapping before a colon, its device's, has blanks.
    (!name.contains(' ')).then_some((name, value.trim()))
}

#[allow(unsafe_code, reason = "no safe wrapper knows what a mapping holds")]
fn let_go(start: usize, end: usize) -> io::Result<()> {
    let Some(address) = NonNull::new(std::ptr::with_exposed_provenance_mut::<c_void>(start)) else { return Ok(()) };
    // SAFETY: the range is a mapping of the running program's file, which stays as long as the process and cannot be
    // written to while it runs; it is not writable and no page of it differs from the file. So whoever reads it, now or
    // later, reads the same bytes.
    unsafe { madvise(address, end - start, MmapAdvise::MADV_DONTNEED) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(first: &str, anonymous: &str) -> String {
        format!("{first}\nSize: 8 kB\nRss: 8 kB\nAnonymous: {anonymous} kB\nSwap: 0 kB\nVmFlags: rd mr\n")
    }

    #[test]
    fn only_what_is_as_in_the_file_is_let_go() {
        let program = Path::new("/usr/bin/weft proxy");
        let check = |first: &str, anonymous: &str, expected: &[(usize, usize)]| {
            // Its neighbours are not mistaken for it.
            let before = entry("500000-501000 rw-p 00000000 00:00 0 ", "0");
            let after = entry("7ff000-800000 r-xp 00000000 00:00 0   [vdso]", "0");
            let smaps = format!("{before}{}{after}", entry(first, anonymous));
            assert_eq!(releasable(&smaps, program), expected, "{first}");
        };
        check("600000-700000 r-xp 00100000 fe:01 42   /usr/bin/weft proxy", "0", &[(0x60_0000, 0x70_0000)]);
        check("600000-700000 r--p 00100000 fe:01 42   /usr/bin/weft proxy", "0", &[(0x60_0000, 0x70_0000)]);
        check("600000-700000 r--p 00100000 fe:01 42   /usr/bin/weft proxy", "4", &[]);
        check("600000-700000 rw-p 00100000 fe:01 42   /usr/bin/weft proxy", "0", &[]);
        check("600000-700000 r-xs 00100000 fe:01 42   /usr/bin/weft proxy", "0", &[]);
        check("600000-700000 r-xp 00100000 fe:01 42   /usr/lib/libc.so.6", "0", &[]);
        check("600000-700000 r-xp 00100000 fe:01 42   /usr/bin/weft proxy (deleted)", "0", &[]);
    }

    #[test]
    fn a_mapping_of_which_not_enough_is_known_stays() {
        let program = Path::new("/p");
        let first = "600000-700000 r-xp 00100000 fe:01 42 /p\n";
        for figures in ["", "Anonymous: 0 kB\n", "Swap: 0 kB\n", "Anonymous: 0 kB\nSwap: 4 kB\n"] {
            assert_eq!(releasable(&format!("{first}{figures}"), program), [], "{figures}");
        }
    }
}
