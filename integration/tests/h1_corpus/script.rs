//! The files of the corpus, as described in `integration/corpus/h1/README.md`.

use std::path::Path;

use weft_integration::raw::{End, Step, find};

/// One exchange.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exchange {
    /// Unique; tells what it is about.
    pub(crate) name: String,
    /// Names of the rules that it needs.
    pub(crate) permits: Vec<String>,
    pub(crate) client: Script,
    pub(crate) server: Script,
}

/// What one side does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    pub(crate) acts: Vec<Act>,
}

/// What one side does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Do(Step),
    /// The connection ends so, without us.
    End(End),
}

impl Script {
    /// All that it sends.
    pub(crate) fn sent(&self) -> Vec<u8> {
        let bytes = self.acts.iter().map(|act| match act {
            Act::Do(Step::Send(bytes)) => bytes.clone(),
            Act::Do(Step::Pieces(pieces)) => pieces.concat(),
            Act::Do(Step::Await(_) | Step::HalfClose | Step::Reset | Step::AwaitEnd) | Act::End(_) => Vec::new(),
        });
        bytes.flatten().collect()
    }

    /// How the other side's direction stands once all is done, without proxies.
    pub(crate) fn end(&self) -> End {
        let ends = self.acts.iter().map(|act| match act {
            Act::End(end) => Some(*end),
            Act::Do(_) => None,
        });
        ends.flatten().last().unwrap_or(End::Open)
    }

    pub(crate) fn resets(&self) -> bool {
        self.acts.contains(&Act::Do(Step::Reset))
    }

    /// The steps. The end of a connection is awaited here only where something follows; `held`: not even there.
    pub(crate) fn steps(&self, held: bool) -> Vec<Step> {
        let last = self.acts.len().saturating_sub(1);
        let step = |(at, act): (usize, &Act)| match act {
            Act::Do(step) => Some(step.clone()),
            Act::End(_) => (!held && at < last).then_some(Step::AwaitEnd),
        };
        self.acts.iter().enumerate().filter_map(step).collect()
    }
}

/// All exchanges of all files, in order.
pub(crate) fn load() -> Vec<Exchange> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/h1");
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "txt"));
    files.sort();
    files.iter().flat_map(|file| parse(&std::fs::read_to_string(file).unwrap(), &file.display().to_string())).collect()
}

/// The exchanges of a file; panics where it is wrong, and says where.
pub(crate) fn parse(text: &str, file: &str) -> Vec<Exchange> {
    let mut reader = Reader::default();
    for (at, line) in text.lines().enumerate() {
        reader.line(line).unwrap_or_else(|problem| panic!("{file}:{}: {problem}: {line}", at + 1));
    }
    reader.done()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Client,
    Server,
}

#[derive(Default)]
struct Reader {
    exchanges: Vec<Exchange>,
    current: Option<Exchange>,
    /// Who sends, and what the other side must have received before it answers.
    sending: Option<(Who, Vec<u8>)>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), &'static str> {
        if line.trim().is_empty() || line.starts_with('#') {
            return Ok(());
        }
        if let Some(name) = line.strip_prefix("== ") {
            self.finish();
            self.current = Some(Exchange { name: name.trim().to_owned(), ..Exchange::default() });
            return Ok(());
        }
        let exchange = self.current.as_mut().ok_or("no exchange begun")?;
        if let Some(names) = line.strip_prefix("permit ") {
            exchange.permits.extend(names.split_whitespace().map(str::to_owned));
            return Ok(());
        }
        let who = match line.as_bytes() {
            [b'>', ..] => Who::Client,
            [b'<', ..] => Who::Server,
            _ => return Err("neither > nor <"),
        };
        let (act, rest) = match line.as_bytes().get(1) {
            None => (b' ', ""),
            Some(act) => (*act, line.get(2..).unwrap_or_default().strip_prefix(' ').unwrap_or_else(|| &line[2..])),
        };
        match act {
            b' ' => self.send(who, line.get(2..).unwrap_or_default()),
            b'.' => self.piece(who),
            b':' => bytes(rest)?.chunks(1).try_for_each(|byte| {
                self.piece(who)?;
                self.push(who, byte.to_vec());
                Ok(())
            }),
            b'~' => self.act(who, Act::Do(Step::Await(bytes(rest)?))),
            b'|' => self.act(who, Act::Do(Step::HalfClose)),
            b'!' => self.act(who, Act::Do(Step::Reset)),
            b'$' if rest == "fin" => self.act(who, Act::End(End::Fin)),
            b'$' if rest == "reset" => self.act(who, Act::End(End::Reset)),
            _ => Err("unknown act"),
        }
    }

    fn script(&mut self, who: Who) -> &mut Vec<Act> {
        let exchange = self.current.as_mut().unwrap();
        match who {
            Who::Client => &mut exchange.client.acts,
            Who::Server => &mut exchange.server.acts,
        }
    }

    fn act(&mut self, who: Who, act: Act) -> Result<(), &'static str> {
        match &self.sending {
            // Said explicitly instead.
            Some((sender, _)) if *sender != who && matches!(act, Act::Do(Step::Await(_))) => self.sending = None,
            Some((sender, _)) if *sender == who && matches!(act, Act::Do(Step::Await(_))) => self.hand_over(),
            _ => self.turn(who),
        }
        self.script(who).push(act);
        Ok(())
    }

    fn send(&mut self, who: Who, text: &str) -> Result<(), &'static str> {
        self.turn(who);
        let line = match text.strip_suffix('\\') {
            Some(open) if !open.ends_with('\\') => bytes(open)?,
            _ => [bytes(text)?, b"\r\n".to_vec()].concat(),
        };
        self.push(who, line);
        Ok(())
    }

    fn push(&mut self, who: Who, line: Vec<u8>) {
        self.sending.get_or_insert((who, Vec::new())).1.extend(&line);
        let acts = self.script(who);
        match acts.last_mut() {
            Some(Act::Do(Step::Send(sent))) => sent.extend(line),
            Some(Act::Do(Step::Pieces(pieces))) => pieces.last_mut().unwrap().extend(line),
            _ => acts.push(Act::Do(Step::Send(line))),
        }
    }

    /// What is sent next arrives for itself.
    fn piece(&mut self, who: Who) -> Result<(), &'static str> {
        self.turn(who);
        let acts = self.script(who);
        match acts.last_mut() {
            Some(Act::Do(Step::Pieces(pieces))) => pieces.push(Vec::new()),
            Some(Act::Do(Step::Send(sent))) => {
                let pieces = vec![std::mem::take(sent), Vec::new()];
                *acts.last_mut().unwrap() = Act::Do(Step::Pieces(pieces));
            }
            _ => acts.push(Act::Do(Step::Pieces(vec![Vec::new()]))),
        }
        Ok(())
    }

    /// When the other side begins to act it has received what was sent to it.
    fn turn(&mut self, who: Who) {
        if self.sending.as_ref().is_some_and(|(sender, _)| *sender != who) {
            self.hand_over();
        }
    }

    /// The other side awaits what was sent to it.
    fn hand_over(&mut self) {
        if let Some((sender, sent)) = self.sending.take() {
            let other = if sender == Who::Client { Who::Server } else { Who::Client };
            self.script(other).extend(signs_of(&sent));
        }
    }

    fn finish(&mut self) {
        self.hand_over();
        self.exchanges.extend(self.current.take());
    }

    fn done(mut self) -> Vec<Exchange> {
        self.finish();
        self.exchanges
    }
}

/// What is awaited to know that everything sent has come, whatever proxies do to fields and chunks: the end of the head,
/// if there is one; then, if anything follows, the end of a chunked body, or the last line.
fn signs_of(sent: &[u8]) -> Vec<Act> {
    const END: &[u8] = b"\r\n\r\n";
    let head = find(sent, END).map(|at| at + END.len());
    let after = head.map_or(sent, |at| &sent[at..]);
    let inside = &after[..after.len().saturating_sub(1)];
    let line = inside.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let last = if after.ends_with(END) { END } else { &after[line..] };
    let signs = [if head.is_some() { END } else { b"" }, last];
    signs.into_iter().filter(|sign| !sign.is_empty()).map(|sign| Act::Do(Step::Await(sign.to_vec()))).collect()
}

/// Text with `\r \n \t \0 \\ \xNN` and `\{TEXT*COUNT}` resolved.
fn bytes(text: &str) -> Result<Vec<u8>, &'static str> {
    let (mut out, mut rest) = (Vec::new(), text);
    while let Some((plain, escaped)) = rest.split_once('\\') {
        out.extend(plain.bytes());
        let (byte, taken) = match escaped.as_bytes() {
            [b'r', ..] => (b'\r', 1),
            [b'n', ..] => (b'\n', 1),
            [b't', ..] => (b'\t', 1),
            [b'0', ..] => (0, 1),
            [b's', ..] => (b' ', 1),
            [b'\\', ..] => (b'\\', 1),
            [b'x', _, _, ..] => (u8::from_str_radix(&escaped[1..3], 16).map_err(|_| "no hexadecimal byte")?, 3),
            [b'{', ..] => {
                let (inner, after) = escaped[1..].split_once('}').ok_or("no end of the repetition")?;
                let (what, count) = inner.rsplit_once('*').ok_or("no count in the repetition")?;
                out.extend(bytes(what)?.repeat(count.parse().map_err(|_| "no number")?));
                rest = after;
                continue;
            }
            _ => return Err("unknown escape"),
        };
        out.push(byte);
        rest = &escaped[taken..];
    }
    out.extend(rest.bytes());
    Ok(out)
}
