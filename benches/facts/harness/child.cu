#include "harness/child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

namespace facts {

namespace {

// A killed process leaves its GPU when the driver has torn its work down, which may take a while and must not be
// waited for without a bound.
constexpr int64_t kReapMs = 10000;

int64_t now_ms() {
  timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return static_cast<int64_t>(at.tv_sec) * 1000 + at.tv_nsec / 1000000;
}

void pause_ms(int ms) {
  const timespec span = {0, ms * 1000000L};
  nanosleep(&span, nullptr);
}

// Waits until `deadline`; whether the child is gone.
bool reap(pid_t child, int64_t deadline, int* status) {
  for (;;) {
    const pid_t got = waitpid(child, status, WNOHANG);
    if (got == child) return true;
    if (got < 0 && errno != EINTR) return false;
    if (now_ms() >= deadline) return false;
    pause_ms(5);
  }
}

// Until the end of file or the deadline; whether the end came.
bool read_all(int from, int64_t deadline, std::string& text) {
  for (;;) {
    const int64_t left = deadline - now_ms();
    if (left <= 0) return false;
    pollfd wanted = {from, POLLIN, 0};
    const int ready = poll(&wanted, 1, static_cast<int>(left));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return false;
    char bytes[4096];
    const ssize_t got = read(from, bytes, sizeof bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return true;
    text.append(bytes, static_cast<size_t>(got));
  }
}

}  // namespace

ChildResult run_child(const char* name, int seconds) {
  ChildResult result = {End::kNotStarted, 0, ""};
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return result;
  const int64_t deadline = now_ms() + int64_t{1000} * seconds;
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    execl("/proc/self/exe", "facts", "--child", name, static_cast<char*>(nullptr));
    _exit(127);
  }
  close(ends[1]);
  if (child < 0) {
    close(ends[0]);
    return result;
  }
  int status = 0;
  const bool ended = read_all(ends[0], deadline, result.output) && reap(child, deadline, &status);
  close(ends[0]);
  if (!ended) {
    result.end = End::kTimedOut;
    kill(child, SIGKILL);
    reap(child, now_ms() + kReapMs, &status);
    return result;
  }
  result.end = WIFSIGNALED(status) ? End::kSignalled : End::kExited;
  result.code = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
  return result;
}

}  // namespace facts
