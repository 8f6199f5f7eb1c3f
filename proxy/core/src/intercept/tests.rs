use super::iptables::{Rules, Table, installed};
use super::*;

fn config() -> InterceptConfig {
    InterceptConfig {
        mark: Some(0x2113),
        exclude_inbound_ports: BTreeSet::from([22]),
        exclude_outbound_ports: BTreeSet::from([5432, 4567]),
        exclude_cidrs: ["10.9.8.7/16", "fd00:1::/32"].map(|net| net.parse().unwrap()).into(),
        exclude_uids: BTreeSet::from([500]),
        ..InterceptConfig::default()
    }
}

/// What iptables-restore gets for a table which has none of ours.
fn transaction(config: &InterceptConfig, family: Family) -> String {
    replace("", &rules(config, family))
}

fn rules(config: &InterceptConfig, family: Family) -> Rules {
    Rules::of(&config.rules(family).unwrap(), Table::Nat)
}

fn replace(saved: &str, wanted: &Rules) -> String {
    iptables::replace(Table::Nat, saved, wanted)
}

fn with_dns() -> InterceptConfig {
    let servers = ["127.0.0.11", "10.9.8.7", "fd00:2::53"].map(|server| server.parse().unwrap());
    InterceptConfig { dns: Some(DnsCapture { port: 1053, servers: servers.into() }), ..config() }
}

#[test]
fn questions_to_name_servers_come_first() {
    let set = with_dns().rules(Family::V4).unwrap();
    let nat = Rules::of(&set, Table::Nat);
    assert!(nat.need_raw() && !rules(&config(), Family::V4).need_raw());
    let text = replace("", &nat);
    for expected in [
        ":WEFT_DNS - [0:0]\n",
        "-A WEFT_INBOUND -p tcp -m tcp --dport 1053 -j RETURN\n",
        "-A WEFT_DNS -m owner --uid-owner 2113 -j RETURN
-A WEFT_DNS -m owner --uid-owner 500 -j RETURN
-A WEFT_DNS -m mark --mark 0x2113 -j RETURN
-A WEFT_DNS -d 10.9.0.0/16 -j RETURN
-A WEFT_DNS -d 10.9.8.7/32 -p udp -m udp --dport 53 -j REDIRECT --to-ports 1053
-A WEFT_DNS -d 10.9.8.7/32 -p tcp -m tcp --dport 53 -j REDIRECT --to-ports 1053
-A WEFT_DNS -d 127.0.0.11/32 -p udp -m udp --dport 53 -j REDIRECT --to-ports 1053
-A WEFT_DNS -d 127.0.0.11/32 -p tcp -m tcp --dport 53 -j REDIRECT --to-ports 1053
-I OUTPUT 1 -p udp -m udp --dport 53 -j WEFT_DNS
-I OUTPUT 2 -p tcp -m tcp --dport 53 -j WEFT_DNS
COMMIT
",
    ] {
        assert!(text.contains(expected), "{expected} not in {text}");
    }
    let raw = "\
*raw
:WEFT_DNS_ZONE - [0:0]
-A WEFT_DNS_ZONE -m owner --uid-owner 2113 -j RETURN
-A WEFT_DNS_ZONE -m owner --uid-owner 500 -j RETURN
-A WEFT_DNS_ZONE -m mark --mark 0x2113 -j RETURN
-A WEFT_DNS_ZONE -d 10.9.0.0/16 -j RETURN
-A WEFT_DNS_ZONE -d 10.9.8.7/32 -p udp -m udp --dport 53 -j CT --zone-orig 8467
-A WEFT_DNS_ZONE -d 127.0.0.11/32 -p udp -m udp --dport 53 -j CT --zone-orig 8467
-A OUTPUT -p udp -m udp --dport 53 -j WEFT_DNS_ZONE
COMMIT
";
    assert_eq!(iptables::replace(Table::Raw, "", &Rules::of(&set, Table::Raw)), raw);
    let none = Rules::of(&config().rules(Family::V4).unwrap(), Table::Raw);
    assert_eq!((none, iptables::replace(Table::Raw, "", &Rules::default())), (Rules::default(), String::new()));
}

#[test]
fn excluded_name_servers_are_not_redirected() {
    let servers = |config: InterceptConfig| {
        let servers = config.redirected_servers()?;
        Some(servers.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(servers(with_dns()), Some(vec!["127.0.0.11".to_owned(), "fd00:2::53".to_owned()]));
    let exclude_cidrs = ["0.0.0.0/0", "::/0"].map(|net| net.parse().unwrap()).into();
    assert_eq!(servers(InterceptConfig { exclude_cidrs, ..with_dns() }), Some(Vec::new()));
    assert_eq!(servers(config()), None);
}

#[test]
fn questions_to_name_servers_by_nft() {
    let expected = "
	chain dns {
		meta skuid 2113 return
		meta skuid 500 return
		meta mark 0x2113 return
		ip6 daddr fd00:1::/32 return
		ip6 daddr fd00:2::53 udp dport 53 redirect to :1053
		ip6 daddr fd00:2::53 tcp dport 53 redirect to :1053
	}
	chain dns_zone {
		meta skuid 2113 return
		meta skuid 500 return
		meta mark 0x2113 return
		ip6 daddr fd00:1::/32 return
		ip6 daddr fd00:2::53 udp dport 53 ct original zone set 8467
	}
	chain prerouting {
		type nat hook prerouting priority -99; policy accept;
		meta l4proto tcp jump inbound
	}
	chain output {
		type nat hook output priority -99; policy accept;
		meta l4proto tcp jump outbound
	}
	chain output_first {
		type nat hook output priority -101; policy accept;
		udp dport 53 jump dns
		tcp dport 53 jump dns
	}
	chain output_raw {
		type filter hook output priority -300; policy accept;
		udp dport 53 jump dns_zone
	}
}
";
    let text = nft::replace(&[with_dns().rules(Family::V6).unwrap()]);
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn the_whole_text_for_ipv4() {
    let expected = "\
*nat
:WEFT_INBOUND - [0:0]
:WEFT_OUTBOUND - [0:0]
:WEFT_PROXY - [0:0]
-A WEFT_INBOUND -p tcp -m tcp --dport 22 -j RETURN
-A WEFT_INBOUND -p tcp -m tcp --dport 53 -j RETURN
-A WEFT_INBOUND -p tcp -m tcp --dport 15001 -j RETURN
-A WEFT_INBOUND -p tcp -m tcp --dport 15006 -j RETURN
-A WEFT_INBOUND -p tcp -m tcp --dport 15020 -j RETURN
-A WEFT_INBOUND -p tcp -m tcp --dport 15053 -j RETURN
-A WEFT_INBOUND -p tcp -j REDIRECT --to-ports 15006
-A WEFT_OUTBOUND -m owner --uid-owner 2113 -g WEFT_PROXY
-A WEFT_OUTBOUND -m mark --mark 0x2113 -g WEFT_PROXY
-A WEFT_OUTBOUND -m owner --uid-owner 500 -j RETURN
-A WEFT_OUTBOUND -d 127.0.0.0/8 -j RETURN
-A WEFT_OUTBOUND -p tcp -m tcp --dport 53 -j RETURN
-A WEFT_OUTBOUND -p tcp -m tcp --dport 4567 -j RETURN
-A WEFT_OUTBOUND -p tcp -m tcp --dport 5432 -j RETURN
-A WEFT_OUTBOUND -p tcp -m tcp --dport 15001 -j RETURN
-A WEFT_OUTBOUND -p tcp -m tcp --dport 15006 -j RETURN
-A WEFT_OUTBOUND -p tcp -m tcp --dport 15020 -j RETURN
-A WEFT_OUTBOUND -p tcp -m tcp --dport 15053 -j RETURN
-A WEFT_OUTBOUND -d 10.9.0.0/16 -j RETURN
-A WEFT_OUTBOUND -p tcp -j REDIRECT --to-ports 15001
-A WEFT_PROXY -s 127.0.0.6/32 -j RETURN
-A WEFT_PROXY -d 127.0.0.0/8 -j RETURN
-A WEFT_PROXY -o lo -j WEFT_INBOUND
-A PREROUTING -p tcp -j WEFT_INBOUND
-A OUTPUT -p tcp -j WEFT_OUTBOUND
COMMIT
";
    assert_eq!(transaction(&config(), Family::V4), expected);
}

#[test]
fn the_whole_text_for_nft() {
    let expected = "\
add table ip weft
delete table ip weft
table ip weft {
	chain inbound {
		tcp dport 22 return
		tcp dport 53 return
		tcp dport 15001 return
		tcp dport 15006 return
		tcp dport 15020 return
		tcp dport 15053 return
		meta l4proto tcp redirect to :15006
	}
	chain outbound {
		meta skuid 2113 goto proxy
		meta mark 0x2113 goto proxy
		meta skuid 500 return
		ip daddr 127.0.0.0/8 return
		tcp dport 53 return
		tcp dport 4567 return
		tcp dport 5432 return
		tcp dport 15001 return
		tcp dport 15006 return
		tcp dport 15020 return
		tcp dport 15053 return
		ip daddr 10.9.0.0/16 return
		meta l4proto tcp redirect to :15001
	}
	chain proxy {
		ip saddr 127.0.0.6/32 return
		ip daddr 127.0.0.0/8 return
		oifname \"lo\" jump inbound
	}
	chain prerouting {
		type nat hook prerouting priority -99; policy accept;
		meta l4proto tcp jump inbound
	}
	chain output {
		type nat hook output priority -99; policy accept;
		meta l4proto tcp jump outbound
	}
}
";
    assert_eq!(nft::replace(&[config().rules(Family::V4).unwrap()]), expected);
    let both = [Family::V4, Family::V6].map(|family| config().rules(family).unwrap());
    let translated = expected
        .replace("127.0.0.0/8", "::1/128")
        .replace("127.0.0.6/32", "::6/128")
        .replace("10.9.0.0/16", "fd00:1::/32")
        .replace("ip ", "ip6 ");
    assert_eq!(nft::replace(&both), format!("{expected}{translated}"));
}

#[test]
fn nft_removes_our_tables_where_there_are_any() {
    let foreign = "table ip nat\ntable inet weft\ntable ip wefts\n";
    assert_eq!(nft::remove(foreign), "");
    assert_eq!(nft::remove(&format!("{foreign}table ip6 weft\n")), "delete table ip6 weft\n");
    let both = format!("table ip weft\n{foreign}table ip6 weft\n");
    assert_eq!(nft::remove(&both), "delete table ip weft\ndelete table ip6 weft\n");
}

#[test]
fn ipv6_differs_in_addresses_only() {
    let v4 = transaction(&config(), Family::V4);
    let v6 = transaction(&config(), Family::V6);
    let translated =
        v4.replace("127.0.0.0/8", "::1/128").replace("127.0.0.6/32", "::6/128").replace("10.9.0.0/16", "fd00:1::/32");
    assert_eq!(v6, translated);
}

#[test]
fn a_proxy_without_a_user_of_its_own_is_known_by_its_mark_alone() {
    let both = transaction(&config(), Family::V4);
    let mark = transaction(&InterceptConfig { proxy_uid: None, ..config() }, Family::V4);
    assert_eq!(mark, both.replace("-A WEFT_OUTBOUND -m owner --uid-owner 2113 -g WEFT_PROXY\n", ""));
}

#[test]
fn nonsense_is_refused() {
    let check = |config: InterceptConfig, expected| assert_eq!(config.rules(Family::V4), Err(expected));
    check(InterceptConfig { inbound_port: 15001, ..config() }, InterceptError::SamePort);
    check(InterceptConfig { inbound_port: 0, ..config() }, InterceptError::NoPort);
    let dns = |port| InterceptConfig { dns: Some(DnsCapture { port, servers: BTreeSet::new() }), ..config() };
    check(dns(15001), InterceptError::SamePort);
    check(dns(0), InterceptError::NoPort);
    check(InterceptConfig { mark: Some(0), ..config() }, InterceptError::NoMark);
    check(InterceptConfig { mark: None, proxy_uid: None, ..config() }, InterceptError::NoExemption);
}

/// What is left of a table after a transaction, in the little of iptables-restore's language that we use.
fn apply(saved: &str, transaction: &str) -> String {
    let mut chains: Vec<String> = Vec::new();
    let mut rules: Vec<String> = Vec::new();
    for line in saved.lines().chain(transaction.lines()) {
        if let Some(chain) = line.strip_prefix(':').and_then(|rest| rest.split(' ').next()) {
            rules.retain(|rule| !rule.starts_with(&format!("{chain} ")));
            if !chains.iter().any(|known| known == chain) {
                chains.push(chain.to_owned());
            }
        } else if let Some(rule) = line.strip_prefix("-A ") {
            rules.push(rule.to_owned());
        } else if let Some((chain, rest)) = line.strip_prefix("-I ").and_then(|rest| rest.split_once(' ')) {
            let (number, rest) = rest.split_once(' ').unwrap();
            let place = |rule: &String| rule.starts_with(&format!("{chain} "));
            let places: Vec<usize> = (0..rules.len()).filter(|at| place(&rules[*at])).collect();
            let at = places.get(number.parse::<usize>().unwrap() - 1).copied().unwrap_or(rules.len());
            rules.insert(at, format!("{chain} {rest}"));
        } else if let Some(rule) = line.strip_prefix("-D ") {
            let at = rules.iter().position(|r| r == rule).unwrap_or_else(|| panic!("-D {rule}: no such rule"));
            rules.remove(at);
        } else if let Some(chain) = line.strip_prefix("-X ") {
            let used = rules.iter().any(|r| r.starts_with(chain) || r.ends_with(&format!(" {chain}")));
            assert!(!used, "-X {chain}: in use");
            chains.retain(|known| known != chain);
        }
    }
    let chains = chains.iter().map(|chain| format!(":{chain} - [0:0]\n"));
    let rules = rules.iter().map(|rule| format!("-A {rule}\n"));
    chains.chain(rules).collect()
}

const FOREIGN: &str = "\
# Generated by iptables-save
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [5:300]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A DOCKER -i docker0 -j RETURN
COMMIT
";

#[test]
fn twice_is_once_and_removal_leaves_the_rest() {
    let rules = rules(&with_dns(), Family::V4);
    let untouched = apply(FOREIGN, "");
    let once = apply(FOREIGN, &replace(FOREIGN, &rules));
    let twice = apply(&once, &replace(&once, &rules));
    assert_eq!(twice, once);
    assert!(once.contains("-A DOCKER"));
    // Doubled jumps and chains of another version are swept up too.
    let messy = format!(
        "{once}-A OUTPUT -p tcp -j WEFT_OUTBOUND\n:WEFT_OLD - [0:0]\n-A OUTPUT -g WEFT_OLD\n-A WEFT_OLD -j RETURN\n"
    );
    assert_eq!(apply(&messy, &replace(&messy, &rules)), once);
    assert_eq!(apply(&messy, &replace(&messy, &Rules::default())), untouched);
    assert_eq!(replace(FOREIGN, &Rules::default()), "");
}

#[test]
fn rolling_back_restores_what_was_there() {
    let before = apply(FOREIGN, &replace(FOREIGN, &rules(&InterceptConfig::default(), Family::V4)));
    let after = apply(&before, &replace(&before, &rules(&with_dns(), Family::V4)));
    assert_ne!(after, before);
    assert_eq!(apply(&after, &replace(&after, &installed(&before))), before);
    assert_eq!(apply(&before, &replace(&before, &installed(&after))), after);
}
