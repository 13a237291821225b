"""Make the sandbox's system call filters: `python build_script/seccomp_filters.py` writes one file an architecture.

Needs libseccomp and its Python binding (pyseccomp) on the machine that builds; a machine that runs tasks needs
neither, for it hands the shipped bytes to bubblewrap. The policy is an allow-list: what is not named here answers
ENOSYS, as on an older kernel, so that programs take their fallbacks; a foreign architecture is killed.
"""

import argparse
import errno
import sys
from pathlib import Path
from tempfile import TemporaryFile

import pyseccomp

FILTERS = Path(__file__).resolve().parent.parent / "dux_taskd" / "sandbox" / "filters"

ARCHES = {"x86_64": pyseccomp.Arch.X86_64, "aarch64": pyseccomp.Arch.AARCH64}

ALLOWED = """
read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek close close_range
open openat openat2 creat stat lstat fstat newfstatat statx access faccessat faccessat2 readlink readlinkat
getdents getdents64 getcwd chdir fchdir rename renameat renameat2 mkdir mkdirat rmdir unlink unlinkat
link linkat symlink symlinkat chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat umask
truncate ftruncate fallocate fadvise64 readahead sync fsync fdatasync syncfs sync_file_range
utime utimes utimensat futimesat flock fcntl dup dup2 dup3 pipe pipe2 sendfile copy_file_range
getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr statfs fstatfs
poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2
eventfd eventfd2 signalfd signalfd4 timerfd_create timerfd_settime timerfd_gettime
inotify_init inotify_init1 inotify_add_watch inotify_rm_watch memfd_create
mmap munmap mremap mprotect madvise msync mincore mlock mlock2 munlock mlockall munlockall brk membarrier rseq
pkey_alloc pkey_free pkey_mprotect
fork vfork execve execveat exit exit_group wait4 waitid kill tkill tgkill pidfd_open pidfd_send_signal
getpid getppid gettid getpgid getpgrp setpgid getsid setsid getuid geteuid getgid getegid getresuid getresgid
setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid getgroups setgroups capget capset
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigsuspend rt_sigpending rt_sigtimedwait rt_sigqueueinfo
rt_tgsigqueueinfo sigaltstack pause alarm setitimer getitimer
timer_create timer_settime timer_gettime timer_getoverrun timer_delete
nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time times
futex futex_waitv set_robust_list get_robust_list set_tid_address arch_prctl prctl restart_syscall
getrlimit setrlimit prlimit64 getrusage sysinfo uname getcpu getrandom getpriority setpriority
sched_yield sched_getaffinity sched_setaffinity sched_getparam sched_getscheduler sched_setscheduler
sched_get_priority_max sched_get_priority_min sched_rr_get_interval sched_getattr ioprio_get
bind listen accept accept4 connect getsockname getpeername sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg
shutdown setsockopt getsockopt
"""
"""Whatever their arguments."""

CLONE_NAMESPACES = 0x7E020080
"""CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET."""

SOCKET_FAMILIES = (1, 2, 10)
"""Unix, IPv4 and IPv6: all three end inside the sandbox's own network namespace."""

IOCTLS = (
    0x5401, 0x5402, 0x5403, 0x5404, 0x540F, 0x5410, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451,
    0x802C542A, 0x402C542B, 0x402C542C, 0x402C542D,
)  # fmt: skip
"""TCGETS, TCSETS, TCSETSW, TCSETSF, TIOCGPGRP, TIOCSPGRP, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX and the
TCGETS2 family. TIOCSTI and TIOCLINUX, which type into a terminal, are not among them."""

FILE_TYPE, FIFO = 0o170000, 0o010000
"""Of mknod's mode: named pipes may be made, devices not."""

PERSONALITIES = (0, 0xFFFFFFFF)
"""PER_LINUX and the query; others switch address randomisation off."""


def build(arch: str) -> bytes:
    """The filter for `arch` (a name as `uname -m` prints it), as the array of BPF instructions that bwrap takes."""
    made = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.ENOSYS))
    made.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
    native, wanted = pyseccomp.system_arch(), ARCHES[arch]
    if native != wanted:
        made.add_arch(wanted)
        made.remove_arch(native)
    for name in ALLOWED.split():
        made.add_rule(pyseccomp.ALLOW, name)
    made.add_rule(pyseccomp.ALLOW, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, CLONE_NAMESPACES, 0))
    for call, position, values in (
        ("socket", 0, SOCKET_FAMILIES),
        ("socketpair", 0, SOCKET_FAMILIES),
        ("ioctl", 1, IOCTLS),
        ("personality", 0, PERSONALITIES),
    ):
        for value in values:
            made.add_rule(pyseccomp.ALLOW, call, pyseccomp.Arg(position, pyseccomp.EQ, value))
    for call, position in (("mknod", 1), ("mknodat", 2)):
        made.add_rule(pyseccomp.ALLOW, call, pyseccomp.Arg(position, pyseccomp.MASKED_EQ, FILE_TYPE, FIFO))
    with TemporaryFile() as file:
        made.export_bpf(file)
        file.seek(0)
        return file.read()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=FILTERS, help="folder to write to")
    folder: Path = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    for arch in ARCHES:
        content = build(arch)
        (folder / f"{arch}.bpf").write_bytes(content)
        print(f"{folder / arch}.bpf: {len(content) // 8} instructions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
