//! A mesh of `weft dev`: two network namespaces with a sidecar each, and iptables that redirect into it.
//!
//! The other proxies take the sidecars' place: the same rules, written by the same program, lead to their ports.

use std::fs::Permissions;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use weft_cli::binaries::Binaries;
use weft_cli::dev::home::Home;
use weft_integration::process::Running;

use crate::scene::PATIENCE;

/// Services of a mesh with many that are used.
const USED: u8 = 10;
/// Services in one file: a stream of YAML holds no more than 1,024 documents. All files are applied at the same time.
const IN_A_FILE: usize = 1000;
/// User of the client. Rules leave alone what the proxies' users send, and those of others run as root.
const CLIENT_USER: &str = "2115";

/// A mesh with a client and a server.
#[derive(Debug)]
pub struct Namespaces {
    /// Address of the server's side.
    pub server: IpAddr,
    /// Weft's proxies: the client's and the server's.
    pub sidecars: [u32; 2],
    /// The application.
    pub backend: u32,
    name: String,
    program: PathBuf,
    proxy: PathBuf,
    own: PathBuf,
    _mesh: Running,
}

impl Namespaces {
    /// Starts it: on the server's side this program with `arguments`, which serves `port` and is moved to `load`.
    ///
    /// # Errors
    /// Not root, or it does not come up.
    pub fn up(directory: &Path, arguments: &[String], port: u16, load: CpuSet) -> anyhow::Result<Self> {
        let binaries = Binaries::locate()?;
        let (program, proxy) = (binaries.find("weft")?, binaries.find("weft-proxy")?);
        let name = format!("bench-{}", std::process::id());
        // The client's user must reach its program, wherever ours lies.
        std::fs::set_permissions(directory, Permissions::from_mode(0o755))?;
        let own = directory.join("weft-bench");
        std::fs::copy(std::env::current_exe()?, &own)?;
        let file = directory.join("mesh.yaml");
        let served = format!("sleep infinity | exec {} {}", own.display(), arguments.join(" "));
        let yaml = format!(
            "apps:\n  - name: server\n    command: '{served}'\n    ports: [{{ port: {port}, protocol: http }}]\n  - \
             name: client\n    command: [sleep, infinity]\n"
        );
        std::fs::write(&file, yaml)?;
        let log = std::fs::File::create(directory.join("mesh.log"))?;
        let mut command = Command::new(&program);
        command.args(["dev", "up", "--quiet", "--mesh", &name]).arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mesh = Running(command.spawn().with_context(|| format!("cannot start {}", program.display()))?);
        let placeholder = IpAddr::from([0, 0, 0, 0]);
        let mut made =
            Self { server: placeholder, sidecars: [0, 0], backend: 0, name, program, proxy, own, _mesh: mesh };
        made.look(directory)?;
        sched_setaffinity(Pid::from_raw(made.backend.try_into()?), &load)?;
        Ok(made)
    }

    /// Waits until all runs, and finds out what runs where.
    fn look(&mut self, directory: &Path) -> anyhow::Result<()> {
        let started = Instant::now();
        let log = directory.join("mesh.log");
        while !std::fs::read_to_string(&log)?.contains("weft: ready") {
            anyhow::ensure!(started.elapsed() < PATIENCE, "the mesh does not come up");
            thread::sleep(Duration::from_millis(20));
        }
        self.sidecars = [self.process("client-0", "weft-proxy")?, self.process("server-0", "weft-proxy")?];
        self.backend = self.process("server-0", "weft-bench")?;
        let addresses =
            said(Command::new("ip").args(["-n", &self.netns("server-0"), "-4", "-o", "address", "show", "eth0"]))?;
        let address = addresses.split_whitespace().skip_while(|word| *word != "inet").nth(1);
        let address = address.and_then(|address| address.split('/').next()?.parse().ok());
        self.server = address.with_context(|| format!("no address of the server in {addresses:?}"))?;
        Ok(())
    }

    fn process(&self, instance: &str, program: &str) -> anyhow::Result<u32> {
        let all = said(Command::new("ip").args(["netns", "pids", &self.netns(instance)]))?;
        let pids = all.split_whitespace().filter_map(|pid| pid.parse().ok());
        let called =
            |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == program);
        pids.into_iter().find(called).with_context(|| format!("no {program} of {instance}"))
    }

    /// Registers so many services with the control plane, by what operators use. The first ones are the server's `port`;
    /// returns where they are.
    ///
    /// # Errors
    /// One is refused.
    pub fn register(&self, directory: &Path, services: usize, port: u16) -> anyhow::Result<Vec<SocketAddr>> {
        let started = Instant::now();
        let used: Vec<IpAddr> = (1..=USED).take(services).map(|last| IpAddr::from([240, 240, 255, last])).collect();
        let document = |index: usize| {
            let (annotation, backing) = match used.get(index) {
                Some(ip) => (String::new(), format!("clusterIP: {ip}, selector: {{service: server}}, ")),
                None => (", annotations: {weft.dev/static-endpoints: 192.0.2.1}".to_owned(), String::new()),
            };
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: bench-{index}{annotation}}}\nspec: {{{backing}ports: \
                 [{{port: 80, targetPort: {port}, appProtocol: http}}]}}\n---\n"
            )
        };
        let socket = Home::own().state.join(&self.name).join("control.sock");
        let all: Vec<usize> = (0..services).collect();
        let appliers = all.chunks(IN_A_FILE).enumerate().map(|(number, part)| {
            let file = directory.join(format!("services-{number}.yaml"));
            std::fs::write(&file, part.iter().map(|index| document(*index)).collect::<String>())?;
            let mut command = Command::new(&self.program);
            command.arg("apply").arg("-f").arg(file).arg("--socket").arg(&socket);
            Ok(Running(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?))
        });
        for mut applier in appliers.collect::<anyhow::Result<Vec<Running>>>()? {
            anyhow::ensure!(applier.0.wait()?.success(), "not all services were registered");
        }
        eprintln!("{services} services registered in {:.1} s", started.elapsed().as_secs_f64());
        Ok(used.into_iter().map(|ip| SocketAddr::new(ip, 80)).collect())
    }

    /// Leads all connections to these ports of the proxies instead, outbound and inbound; or leaves them alone.
    ///
    /// # Errors
    /// The rules cannot be written.
    pub fn redirect(&self, ports: Option<[u16; 2]>) -> anyhow::Result<()> {
        for client in [true, false] {
            let inside = self.inside(client);
            let (first, rest) = inside.split_first().context("no command")?;
            let mut command = Command::new(first);
            command.args(rest).arg(&self.proxy).args(["init", "--backend", "iptables"]);
            match ports {
                None => command.arg("--remove"),
                Some([outbound, inbound]) => command
                    .args(["--outbound-port", &outbound.to_string(), "--inbound-port", &inbound.to_string()])
                    .args(["--proxy-uid", "0"]),
            };
            said(&mut command)?;
        }
        Ok(())
    }

    /// What runs a command in the namespace of the client or of the server.
    #[must_use]
    pub fn inside(&self, client: bool) -> Vec<String> {
        let netns = self.netns(if client { "client-0" } else { "server-0" });
        ["ip", "netns", "exec", &netns].map(str::to_owned).to_vec()
    }

    /// What runs this program as the client.
    #[must_use]
    pub fn client(&self) -> Vec<String> {
        let user =
            ["setpriv", "--reuid", CLIENT_USER, "--regid", CLIENT_USER, "--clear-groups", "--"].map(str::to_owned);
        self.inside(true).into_iter().chain(user).chain([self.own.display().to_string()]).collect()
    }

    fn netns(&self, instance: &str) -> String {
        format!("weft.{}.{instance}", self.name)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // What it cannot take down, the mesh's own guard does.
        said(Command::new(&self.program).args(["dev", "down", "--mesh", &self.name])).map(drop).unwrap_or_default();
    }
}

/// Standard output of a command that must succeed.
fn said(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{command:?}: {}\n{error}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
