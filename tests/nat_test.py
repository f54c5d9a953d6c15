"""A run between two homes behind NATs, and between a home and a public node: network namespaces with nftables.

usage: nat_test.py PATH_OF_SPORKLE

Both homes use the same private addresses, as homes do. Where the system gives no namespaces or has no nft, the test is
skipped (exit code 77) and says why.
"""
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

SKIPPED = 77
INSIDE = "--inside"
PUBLIC = "198.51.100.1"
NATS = {"port-preserving": "masquerade", "symmetric": "masquerade fully-random"}
CONFIG = """[data]
path = "text.txt"
[model]
layers = 1
heads = 1
width = 16
context = 16
[train]
batch_size = 2
eval_batches = 1
steps = 4
[output]
directory = "model"
[run]
inner_steps = "2"
workers = 1
"""


def sh(command, check=True):
    done = subprocess.run(command, shell=True, text=True, capture_output=True)
    if check and done.returncode != 0:
        raise RuntimeError(f"{command}: {done.stderr.strip()}")
    return done.returncode


def set_up():
    """The internet (a bridge here), a public node, and two homes, each a router and a machine."""
    sh("mount -t tmpfs none /run && mkdir -p /run/netns && ip link set lo up")
    sh("ip link add internet type bridge && ip link set internet up")
    attach("public", f"{PUBLIC}/24")
    for home, wan in (("a", "198.51.100.11"), ("b", "198.51.100.12")):
        attach(f"router_{home}", f"{wan}/24")
        sh(f"ip netns add home_{home} && ip -n home_{home} link set lo up")
        sh(f"ip -n router_{home} link add lan type veth peer name eth netns home_{home}")
        sh(f"ip -n router_{home} addr add 192.168.1.1/24 dev lan && ip -n router_{home} link set lan up")
        sh(f"ip -n home_{home} addr add 192.168.1.2/24 dev eth && ip -n home_{home} link set eth up")
        sh(f"ip -n home_{home} route add default via 192.168.1.1")
        sh(f"ip netns exec router_{home} sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'")
        # A kernel without NAT says so here; what is wrong with our rules later is a failure.
        sh(f"ip netns exec router_{home} nft 'add table ip probe; add chain ip probe out "
           "{ type nat hook postrouting priority 100; }; add rule ip probe out masquerade'")


def attach(name, address):
    sh(f"ip netns add {name} && ip -n {name} link set lo up")
    sh(f"ip link add to_{name} type veth peer name wan netns {name} && ip link set to_{name} master internet up")
    sh(f"ip -n {name} addr add {address} dev wan && ip -n {name} link set wan up")


def use_nat(home, kind):
    rules = f"""flush ruleset
table ip nat {{
  chain out {{
    type nat hook postrouting priority 100;
    oifname "wan" {NATS[kind]};
  }}
}}
table ip filter {{
  chain through {{
    type filter hook forward priority 0; policy drop;
    ct state established,related accept;
    iifname "lan" accept;
  }}
  chain here {{
    type filter hook input priority 0; policy drop;
    ct state established,related accept;
  }}
}}
"""
    done = subprocess.run(["ip", "netns", "exec", f"router_{home}", "nft", "-f", "-"], input=rules, text=True,
                          capture_output=True)
    if done.returncode != 0:
        raise AssertionError("nft: " + done.stderr.strip())


class Node:
    """The sporkle command, running on one machine; its output is JSON lines."""

    def __init__(self, sporkle, folder, machine, name, *arguments):
        environment = dict(os.environ, SPORKLE_HOME=os.path.join(folder, name))
        self.out = os.path.join(folder, name + ".out")
        self.err = os.path.join(folder, name + ".err")
        self.process = subprocess.Popen(["ip", "netns", "exec", machine, sporkle, *arguments, "--json"], cwd=folder,
                                        env=environment, stdout=open(self.out, "w"), stderr=open(self.err, "w"))

    def events(self):
        with open(self.out) as lines:
            return [json.loads(line) for line in lines if line.endswith("\n")]

    def event(self, kind, timeout_s=60):
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            for event in self.events():
                if event["event"] == kind:
                    return event
            if self.process.poll() is not None and kind not in [e["event"] for e in self.events()]:
                break
            time.sleep(0.02)
        raise AssertionError(f"no {kind}: {open(self.out).read()}{open(self.err).read()}")

    def finish(self, timeout_s=120):
        code = self.process.wait(timeout_s)
        assert code == 0, f"exit code {code}: {open(self.out).read()}{open(self.err).read()}"
        return self.events()[-1]

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)


def train(sporkle, folder, coordinator_at, worker_at, relay=None):
    """A whole run; gives its link, the worker's summary and the time that the worker took."""
    work = tempfile.mkdtemp(dir=folder)
    shutil.copy(os.path.join(folder, "text.txt"), work)
    with open(os.path.join(work, "config.toml"), "w") as file:
        file.write(CONFIG)
    how = ["--relay", relay] if relay else []
    coordinator = Node(sporkle, work, coordinator_at, "coordinator", "run", "start", "config.toml", "--no-lan",
                       "--threads", "1", "--evaluation-windows", "2", *how)
    worker = None
    try:
        link = coordinator.event("link")["link"]
        if relay:
            # The wall is real: without the relay's address nobody gets in.
            key, rest = link.split("@")
            direct = ",".join(a for a in rest.split("/")[0].split(",") if not a.startswith(PUBLIC))
            refused = Node(sporkle, work, worker_at, "refused", "join", f"{key}@{direct}/" + rest.split("/", 1)[1])
            assert refused.process.wait(90) == 1, open(refused.out).read()
        start = time.monotonic()
        worker = Node(sporkle, work, worker_at, "worker", "join", link, "--threads", "1")
        summary = worker.finish()
        seconds = time.monotonic() - start
        assert summary["finished"] and summary["steps"] == 4, summary
        checkpoint = coordinator.finish()["checkpoint"]
        assert os.path.exists(os.path.join(work, checkpoint)), checkpoint
        return seconds
    finally:
        for node in (worker, coordinator):
            if node:
                node.stop()


def test(sporkle):
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SPORKLE_CACHE"] = os.path.join(folder, "cache")
        with open(os.path.join(folder, "text.txt"), "w") as file:
            file.write("".join(f"the {i % 17} ships sailed past harbour {i % 29}.\n" for i in range(400)))
        for home in "ab":
            use_nat(home, "port-preserving")
        seconds = train(sporkle, folder, "public", "home_b")
        print(f"public coordinator, home behind a NAT: {seconds:.1f} s")
        relay = Node(sporkle, folder, "public", "relay", "relay", "--address", PUBLIC, "--ports", "40000-40007")
        try:
            link = relay.event("link")["link"]
            seconds = train(sporkle, folder, "home_a", "public", link)
            print(f"coordinator behind a NAT, public worker: {seconds:.1f} s")
            for coordinator, worker in itertools.product(NATS, NATS):
                use_nat("a", coordinator)
                use_nat("b", worker)
                seconds = train(sporkle, folder, "home_a", "home_b", link)
                print(f"coordinator behind a {coordinator} NAT, worker behind a {worker} one: {seconds:.1f} s")
        finally:
            relay.stop()
        summary = relay.events()[-1]
        assert summary["event"] == "summary" and summary["circuits_joined"] >= 5, summary


def main():
    sporkle = os.path.abspath(sys.argv[1])
    if INSIDE not in sys.argv:
        if not shutil.which("nft") or not shutil.which("ip"):
            print("skipped: needs `nft` (nftables) and `ip` (iproute2)")
            return SKIPPED
        command = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child"]
        if subprocess.run([*command, "true"], capture_output=True).returncode != 0:
            print("skipped: this system gives no network namespaces")
            return SKIPPED
        return subprocess.call([*command, sys.executable, __file__, sporkle, INSIDE])
    try:
        set_up()
    except RuntimeError as error:
        print(f"skipped: no network of homes can be made here: {error}")
        return SKIPPED
    test(sporkle)
    return 0


if __name__ == "__main__":
    sys.exit(main())
