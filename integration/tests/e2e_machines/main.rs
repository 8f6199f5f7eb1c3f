//! `deploy/two-machines.md`, run as it stands there on two booted machines; and what the page promises.

#[cfg(test)]
mod machine;
#[cfg(test)]
mod page;
#[cfg(test)]
mod units;

#[cfg(test)]
mod machines {
    use std::path::Path;
    use std::time::Duration;

    use anyhow::Context as _;
    use serde_json::Value;
    use weft_cli::binaries::Binaries;
    use weft_cli::dev::ready::wait_for;
    use weft_integration::assert::same_hop;

    use crate::machine::{Machine, connect};
    use crate::page::blocks;

    /// Longer than any of the waits takes; a lease is 10 s.
    const PATIENCE: Duration = Duration::from_secs(60);

    const PAGE: &str = include_str!("../../../deploy/two-machines.md");

    struct Two {
        one: Machine,
        two: Machine,
        /// The page's last command: a call from `two` to `one`.
        call: String,
    }

    impl Two {
        async fn boot() -> anyhow::Result<Self> {
            let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a repository")?;
            let (one, two) = tokio::try_join!(Machine::boot("one", repository), Machine::boot("two", repository))?;
            connect([(&one, "10.99.0.1"), (&two, "10.99.0.2")]).await?;
            Ok(Self { one, two, call: String::new() })
        }

        async fn run_the_page(&mut self) -> anyhow::Result<()> {
            let binaries = Binaries::locate()?.find("weft")?;
            let binaries = binaries.parent().context("a directory")?.display().to_string();
            let mut commands = 0;
            let mut token = String::new();
            for block in blocks(PAGE)? {
                let (whose, see) = block.mark.split_once(' ').unwrap_or((&block.mark, ""));
                commands += usize::from(see.is_empty());
                let text = block.text.replace("target/release", &binaries).replace("$TOKEN", token.trim());
                match whose {
                    "one" => {
                        let said = self.one.sh(&text).await?;
                        token = if said.starts_with("weft1.") { said } else { token };
                    }
                    "two" if see.is_empty() => drop(self.two.sh(&text).await?),
                    "two" => self.call = text,
                    "both" => {
                        tokio::try_join!(self.one.sh(&text), self.two.sh(&text))?;
                    }
                    other => anyhow::bail!("whose is a block for {other:?}?"),
                }
            }
            assert_eq!(commands, 10, "the page promises ten");
            Ok(())
        }

        /// Waits until a call from `two` is answered by the server on `one`.
        async fn answers(&self, after: &str) -> anyhow::Result<()> {
            wait_for(&format!("an answer after {after}"), PATIENCE, || async {
                let answer = self.two.sh(&self.call).await.map_err(|error| format!("{error:#}"))?;
                if answer.contains("Apache License") { Ok(()) } else { Err(answer) }
            })
            .await
        }

        /// A call that the server's log can be searched for.
        async fn ask(&self, path: &str) -> anyhow::Result<i32> {
            let said =
                self.two.output(&format!("curl -s -o /dev/null --max-time 5 http://10.99.0.1:8000/{path}")).await?;
            said.status.code().context("curl was killed")
        }

        async fn was_asked(&self, path: &str) -> anyhow::Result<bool> {
            Ok(self.one.sh("journalctl --sync; journalctl -u web -o cat").await?.contains(path))
        }
    }

    /// The newest access record of the machine's proxy for a request that went well.
    async fn record(machine: &Machine) -> anyhow::Result<Value> {
        wait_for("a record", PATIENCE, || async {
            let said = machine.sh("journalctl -u weft-proxy -o cat").await.map_err(|error| format!("{error:#}"))?;
            let records = said.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let found = records.into_iter().find(|record| record.get("status") == Some(&Value::from(200)));
            found.ok_or_else(|| said.lines().last().unwrap_or_default().to_owned())
        })
        .await
    }

    #[tokio::test]
    async fn two_machines_in_ten_commands() -> anyhow::Result<()> {
        let mut both = Two::boot().await?;
        let outcome = scenario(&mut both).await;
        if outcome.is_err() {
            for machine in [&both.one, &both.two] {
                let journal = machine.sh("journalctl --sync; journalctl -o short-precise -n 200").await;
                eprintln!("{}\n{}", machine.log(), journal.unwrap_or_else(|error| error.to_string()));
            }
        }
        outcome
    }

    async fn scenario(both: &mut Two) -> anyhow::Result<()> {
        both.run_the_page().await?;
        both.answers("the page").await?;
        same_hop(&record(&both.two).await?, &record(&both.one).await?, ("client", "web"))?;
        for machine in [&both.one, &both.two] {
            machine.sh("rm /etc/weft/join-token").await?;
        }
        restarts(both).await?;
        a_full_disk(both).await?;
        nothing_goes_past_a_proxy_that_is_down(both).await?;
        a_name_server_that_is_known_late(&both.two).await?;
        leaving_and_coming_back(both).await?;
        other_exclusions(&both.two).await?;
        a_redirection_that_cannot_be_made(&both.two).await?;
        a_filter_of_families(&both.two).await?;
        a_number_that_is_taken(&both.two).await
    }

    /// They come into force in one step, under a proxy that goes on.
    async fn other_exclusions(machine: &Machine) -> anyhow::Result<()> {
        let pid = "systemctl show -P MainPID weft-proxy";
        let before = machine.sh(pid).await?;
        machine.sh("echo WEFT_EXCLUDE_OUTBOUND_PORTS=4321 >>/etc/weft/proxy.env; systemctl reload weft-init").await?;
        machine.sh("iptables-save -t nat | grep -e '--dport 4321'").await?;
        assert_eq!(machine.sh(pid).await?, before);
        Ok(())
    }

    /// What was named to be captured does not run then; the rest of the machine does.
    async fn a_redirection_that_cannot_be_made(machine: &Machine) -> anyhow::Result<()> {
        let unit = "[Service]\nExecStart=/bin/sleep infinity\n";
        machine
            .sh(&format!("for unit in bound other; do printf '{unit}' >/etc/systemd/system/$unit.service; done"))
            .await?;
        let said = machine.output("deploy/systemd/captured nowhere").await?;
        anyhow::ensure!(!said.status.success(), "there is no such unit: {said:?}");
        machine.sh("deploy/systemd/captured bound; systemctl stop weft-proxy weft-init").await?;
        machine
            .sh("cp /etc/weft/proxy.env /root/proxy.env; echo WEFT_OUTBOUND_PORT=none >>/etc/weft/proxy.env")
            .await?;
        let said = machine.output("systemctl start bound").await?;
        anyhow::ensure!(!said.status.success(), "it runs uncaptured: {said:?}");
        machine
            .sh("test $(systemctl is-active bound) = inactive; systemctl start other; systemctl is-active other")
            .await?;
        machine.sh("cp /root/proxy.env /etc/weft/proxy.env; systemctl start bound weft-proxy").await?;
        machine.sh("systemctl is-active bound weft-init; iptables-save -t nat | grep -q WEFT_OUTBOUND").await?;
        machine
            .sh("systemctl stop weft-init; test $(systemctl is-active bound) = inactive; systemctl start weft-proxy")
            .await
            .map(drop)
    }

    /// It says of IPv6 what a kernel without it says; IPv6 is captured all the same, or nothing is.
    async fn a_filter_of_families(machine: &Machine) -> anyhow::Result<()> {
        let init = "weft-proxy init --dry-run";
        let both = "ip6tables-restore";
        anyhow::ensure!(machine.sh(init).await?.contains(both), "this machine has IPv6");
        let filter = "-p RestrictAddressFamilies='AF_INET AF_NETLINK AF_UNIX'";
        let said = machine.output(&format!("systemd-run --quiet --wait --pipe {filter} {init}")).await?;
        let planned = String::from_utf8_lossy(&said.stdout);
        anyhow::ensure!(planned.contains(both) || !said.status.success(), "IPv4 alone: {planned}");
        Ok(())
    }

    /// Whose connections would pass unseen.
    async fn a_number_that_is_taken(machine: &Machine) -> anyhow::Result<()> {
        let binaries = Binaries::locate()?.find("weft")?;
        let install = format!("deploy/systemd/install {}", binaries.parent().context("a directory")?.display());
        machine.sh("systemctl stop weft-proxy; userdel weft-proxy; useradd -u 2113 squatter").await?;
        let said = machine.output(&install).await?;
        let error = String::from_utf8_lossy(&said.stderr);
        anyhow::ensure!(!said.status.success() && error.contains("2113 is squatter"), "{said:?}");
        machine.sh("echo WEFT_PROXY_UID=$(id -u weft-proxy) >>/etc/weft/proxy.env").await?;
        machine.sh(&install).await.map(drop)
    }

    /// No token is there any more.
    async fn restarts(both: &Two) -> anyhow::Result<()> {
        for (name, machine) in [("one", &both.one), ("two", &both.two)] {
            machine.sh("systemctl restart weft-proxy").await?;
            both.answers(&format!("a restart of the proxy on {name}")).await?;
            machine.sh("systemctl kill -s KILL weft-proxy").await?;
            both.answers(&format!("a kill of the proxy on {name}")).await?;
        }
        // Killed, so that nobody deregisters: the lease ends by itself.
        both.one.sh("systemctl kill -s KILL weft-proxy; systemctl stop weft-proxy").await?;
        wait_for("the lease to end", PATIENCE, || async {
            let said = both.one.sh("weft status").await.map_err(|error| format!("{error:#}"))?;
            if said.contains("10.99.0.1") { Err(said) } else { Ok(()) }
        })
        .await?;
        both.one.sh("systemctl restart weft-control-plane; systemctl start weft-proxy").await?;
        both.answers("the end of the lease and a restart of the control plane").await?;
        both.one.sh("systemctl kill -s KILL weft-control-plane").await?;
        both.answers("a kill of the control plane").await
    }

    /// Where nothing can be kept, a token does as ever; one warning, whatever is renewed.
    async fn a_full_disk(both: &Two) -> anyhow::Result<()> {
        // It may still be starting after the kill.
        let token = wait_for("a token", PATIENCE, || async {
            both.one.sh("weft token create -n default -s client").await.map_err(|error| format!("{error:#}"))
        })
        .await?;
        let token = token.trim();
        both.two
            .sh(&format!(
                "systemctl stop weft-proxy
                mount -t tmpfs -o size=4k,mode=700,uid=2113 tmpfs /var/lib/weft-proxy
                head -c 4096 /dev/zero >/var/lib/weft-proxy/fill
                echo {token} | install -m 640 -g weft-proxy /dev/stdin /etc/weft/join-token
                systemctl start weft-proxy"
            ))
            .await?;
        both.answers("a full disk").await?;
        let said = "journalctl --sync; journalctl -u weft-proxy -o cat | grep -c 'identity cannot be kept'";
        assert_eq!(both.two.sh(said).await?.trim(), "1");
        let stored = both.two.sh("curl -sS http://127.0.0.1:15020/metrics | grep ^weft_identity_stored").await?;
        assert_eq!(stored.trim(), "weft_identity_stored 0");
        both.two.sh("systemctl stop weft-proxy; umount /var/lib/weft-proxy; rm /etc/weft/join-token").await?;
        both.two.sh("systemctl start weft-proxy").await?;
        both.answers("a disk with room").await
    }

    async fn nothing_goes_past_a_proxy_that_is_down(both: &Two) -> anyhow::Result<()> {
        both.two.sh("systemctl stop weft-proxy").await?;
        assert_eq!(both.ask("outbound-leak").await?, 7, "refused");
        // The machine's own firewall begins with "flush ruleset". systemctl waits for it, not for what follows it.
        for change in ["start", "reload", "restart", "stop"] {
            let back = "until iptables-save -t nat | grep -q WEFT_OUTBOUND; do sleep 0.05; done";
            both.two.sh(&format!("systemctl {change} nftables; timeout 20 bash -c '{back}'")).await?;
            assert_eq!(both.ask("outbound-leak").await?, 7, "refused after {change}");
        }
        both.two.sh("systemctl start weft-proxy").await?;
        both.answers("a stop of the caller's proxy").await?;
        both.one.sh("systemctl stop weft-proxy").await?;
        both.two.sh("systemctl stop weft-proxy weft-init").await?;
        assert_eq!(both.ask("inbound-leak").await?, 7, "refused");
        // The way itself is open: without the redirection on both sides the same call arrives.
        both.one.sh("systemctl stop weft-init").await?;
        assert_eq!(both.ask("in-the-open").await?, 0);
        assert!(both.was_asked("in-the-open").await?);
        for leak in ["outbound-leak", "inbound-leak"] {
            assert!(!both.was_asked(leak).await?, "{leak}");
        }
        Ok(())
    }

    /// As from DHCP, after the redirection is made: what is asked there is led to the proxy when that starts. Nobody else would
    /// answer.
    async fn a_name_server_that_is_known_late(machine: &Machine) -> anyhow::Result<()> {
        machine.sh("systemctl start weft-proxy; echo nameserver 10.99.0.1 >/etc/resolv.conf").await?;
        let asked = "dig +tries=1 +time=2 @10.99.0.1 web.default.svc.cluster.local";
        let said = machine.output(asked).await?;
        anyhow::ensure!(!said.status.success(), "redirected already: {said:?}");
        machine.sh("systemctl restart weft-proxy").await?;
        wait_for("the redirection of its questions", PATIENCE, || async {
            let said = machine.sh(&format!("{asked} +short")).await.map_err(|error| format!("{error:#}"))?;
            if said.starts_with("240.") { Ok(()) } else { Err(said) }
        })
        .await
    }

    /// Booted again, the redirection and the proxies are there, and still no token is needed.
    async fn leaving_and_coming_back(both: &Two) -> anyhow::Result<()> {
        both.one.sh("systemctl start weft-proxy").await?;
        let before = both.two.leader()?;
        both.two.output("systemctl reboot").await?;
        wait_for("the machine to go down", PATIENCE, || async {
            match both.two.leader() {
                Ok(leader) if leader == before => Err("it is still up".to_owned()),
                _ => Ok(()),
            }
        })
        .await?;
        both.two.until_booted().await?;
        both.answers("a reboot").await?;
        let order = "systemctl show -P ActiveEnterTimestampMonotonic weft-init network-pre.target weft-proxy";
        let times = both.two.sh(order).await?;
        let times: Vec<u64> = times.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        assert!(times.is_sorted() && times.len() == 3 && !times.contains(&0), "redirection, network, proxy: {times:?}");
        Ok(())
    }
}
