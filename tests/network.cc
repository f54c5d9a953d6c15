#include "tests/network.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace sporkle::testing {
namespace {

bool write_file(const char* path, const std::string& text) {
  const int fd = ::open(path, O_WRONLY | O_CLOEXEC);
  const bool written = fd >= 0 && ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  if (fd >= 0) ::close(fd);
  return written;
}

int own_network() { return ::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC); }

bool run(const std::string& command) { return std::system((command + " >/dev/null 2>&1").c_str()) == 0; }

}  // namespace

Network::Network() {
  const uid_t uid = ::getuid();
  const gid_t gid = ::getgid();
  if (::unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) {
    error_ = std::string("this system gives no network namespaces: ") + std::strerror(errno);
    return;
  }
  // We are root there, and nobody new outside.
  if (!write_file("/proc/self/setgroups", "deny") ||
      !write_file("/proc/self/uid_map", "0 " + std::to_string(uid) + " 1") ||
      !write_file("/proc/self/gid_map", "0 " + std::to_string(gid) + " 1")) {
    error_ = std::string("a user namespace cannot be set up: ") + std::strerror(errno);
    return;
  }
  first_ = own_network();
  int ready[2] = {-1, -1};
  if (::pipe2(ready, O_CLOEXEC) != 0) return;
  holder_ = ::fork();
  if (holder_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const bool made = ::unshare(CLONE_NEWNET) == 0 && run("ip link set lo up");
    (void)!::write(ready[1], made ? "y" : "n", 1);
    for (;;) ::pause();
  }
  char made = 'n';
  (void)!::read(ready[0], &made, 1);
  ::close(ready[0]);
  ::close(ready[1]);
  const std::string holder = std::to_string(holder_);
  second_ = ::open(("/proc/" + holder + "/ns/net").c_str(), O_RDONLY | O_CLOEXEC);
  if (made != 'y' || second_ < 0 || !run("ip link set lo up") ||
      !run("ip link add cable1 type veth peer name cable2 && ip link set cable2 netns " + holder) ||
      !run("ip addr add 10.77.0.1/24 dev cable1 && ip link set cable1 up")) {
    error_ = "no virtual cable between network namespaces; is `ip` (iproute2) installed?";
    return;
  }
  enter(Machine::second);
  if (!run("ip addr add 10.77.0.2/24 dev cable2 && ip link set cable2 up"))
    error_ = "the second machine has no network";
  enter(Machine::first);
}

Network::~Network() {
  if (holder_ > 0) {
    ::kill(holder_, SIGKILL);
    ::waitpid(holder_, nullptr, 0);
  }
  if (first_ >= 0) ::close(first_);
  if (second_ >= 0) ::close(second_);
}

void Network::use_ipv4(bool used) {
  for (const Machine machine : {Machine::second, Machine::first}) {
    enter(machine);
    const std::string number = machine == Machine::first ? "1" : "2", cable = "cable" + number;
    if (!run(used ? "ip addr add 10.77.0." + number + "/24 dev " + cable : "ip -4 addr flush dev " + cable))
      error_ = "IPv4 cannot be switched";
    // An IPv6 address is tentative until nobody has objected to it, for a second or two.
    for (int i = 0; !used && i < 100 && !run("ip -6 addr show dev " + cable + " scope link -tentative | grep fe80");
         ++i)
      ::usleep(50'000);
  }
}

void Network::enter(Machine machine) {
  if (::setns(machine == Machine::first ? first_ : second_, CLONE_NEWNET) != 0)
    error_ = std::string("cannot enter a network namespace: ") + std::strerror(errno);
}

}  // namespace sporkle::testing
