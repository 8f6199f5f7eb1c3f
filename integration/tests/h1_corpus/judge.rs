//! Compares an exchange through the mesh with the same one without it.

use weft_integration::raw::{End, shown};

use crate::rules::{Ending, HALF_CLOSE_HELD, RULES, Rule, added_by_the_mesh};
use crate::run::{Ends, Seen};
use crate::script::Exchange;
use crate::transcript::{Message, Transcript, requests, responses};

/// The rules that an exchange permits.
pub(crate) fn permitted(exchange: &Exchange) -> Vec<&'static Rule> {
    let rule = |name: &String| {
        let found = RULES.iter().find(|rule| rule.name == name);
        found.unwrap_or_else(|| panic!("{}: there is no rule {name}", exchange.name))
    };
    exchange.permits.iter().map(rule).collect()
}

/// How connections end directly, as the scripts say.
pub(crate) fn direct_ends(exchange: &Exchange) -> Ends {
    Ends { client: exchange.client.end(), server: exchange.server.end(), held: false }
}

/// How they end through the mesh under these rules.
pub(crate) fn mesh_ends(exchange: &Exchange, rules: &[&Rule]) -> Ends {
    let direct = direct_ends(exchange);
    let end = |direct: End, of: fn(&Rule) -> Ending| {
        let mut ends = rules.iter().flat_map(|rule| of(rule));
        ends.find(|(from, _)| *from == direct).map_or(direct, |(_, to)| *to)
    };
    Ends {
        client: end(direct.client, |rule| rule.client_end),
        server: end(direct.server, |rule| rule.server_end),
        held: rules.iter().any(|rule| rule.name == HALF_CLOSE_HELD),
    }
}

/// What is wrong with the exchange as it was without proxies: then it tests nothing.
pub(crate) fn vacuous(exchange: &Exchange, seen: &Seen) -> Option<String> {
    if let Some(fault) = &seen.fault {
        return Some(format!("direct: {fault}"));
    }
    let (client, server) = (&exchange.client, &exchange.server);
    if client.sent().is_empty() {
        return Some("the client sends nothing".to_owned());
    }
    let sides = [("client", client, server, &seen.client), ("server", server, client, &seen.server)];
    sides.into_iter().find_map(|(name, own, other, side)| {
        let whole = own.resets() || side.end == End::Reset || side.received == other.sent();
        if !whole {
            return Some(format!("direct: the {name} received {}", shown(&side.received)));
        }
        (side.end != own.end()).then(|| format!("direct: the {name} saw {:?}, not {:?}", side.end, own.end()))
    })
}

/// The differences that `rules` do not explain, for people.
pub(crate) fn differences(direct: &Seen, mesh: &Seen, rules: &[&Rule]) -> Option<String> {
    if let Some(fault) = &mesh.fault {
        let both = [("client", &mesh.client), ("server", &mesh.server)];
        let received = both.map(|(name, side)| format!("  the {name} received {}", shown(&side.received)));
        return Some(format!("  mesh: {fault}\n{}", received.join("\n")));
    }
    let [mut asked, mut forwarded] = [direct, mesh].map(|seen| requests(&seen.server));
    if let Err(problem) = added_by_the_mesh(&asked, &mut forwarded) {
        return Some(format!("  {problem}"));
    }
    let methods = methods(&asked);
    let [mut answered, mut relayed] = [direct, mesh].map(|seen| responses(&seen.client, &methods));
    for rule in rules {
        rule.apply(&mut asked, &mut forwarded, &mut answered, &mut relayed);
    }
    let server = (asked != forwarded).then(|| difference("server", &asked, &forwarded));
    let client = (answered != relayed).then(|| difference("client", &answered, &relayed));
    let all: Vec<String> = server.into_iter().chain(client).collect();
    (!all.is_empty()).then(|| all.join("\n"))
}

fn methods(asked: &Transcript) -> Vec<Vec<u8>> {
    let method = |message: &Message| message.start.split(|byte| *byte == b' ').next().unwrap_or_default().to_vec();
    asked.messages.iter().map(method).collect()
}

/// Lines that only one of both has, between those that both begin and end with.
fn difference(side: &str, direct: &Transcript, mesh: &Transcript) -> String {
    let (direct, mesh) = (direct.lines(), mesh.lines());
    let same = direct.iter().zip(&mesh).take_while(|(one, other)| one == other).count();
    let shorter = direct.len().min(mesh.len()) - same;
    let tail = direct.iter().rev().zip(mesh.iter().rev()).take(shorter);
    let tail = tail.take_while(|(one, other)| one == other).count();
    let part = |mark: &str, lines: &[String]| {
        let lines = lines[same..lines.len() - tail].iter();
        lines.map(|line| format!("    {mark} {line}\n")).collect::<String>()
    };
    format!(
        "  {side}, direct (-) against mesh (+), after {same} equal lines:\n{}{}",
        part("-", &direct),
        part("+", &mesh)
    )
}

/// The fewest rules that explain everything, if all together do; one is left out after the other.
pub(crate) fn sufficient(direct: &Seen, mesh: &Seen) -> Option<Vec<&'static str>> {
    let mut rules: Vec<&Rule> = RULES.iter().collect();
    differences(direct, mesh, &rules).is_none().then_some(())?;
    for rule in RULES {
        let fewer: Vec<&Rule> = rules.iter().copied().filter(|other| other.name != rule.name).collect();
        if differences(direct, mesh, &fewer).is_none() {
            rules = fewer;
        }
    }
    Some(rules.iter().map(|rule| rule.name).collect())
}
