//! The filters that the kernel applies to a worker's system calls. Filters add up: what one has denied stays denied.

use super::{ConfinementError, Stage};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use std::collections::BTreeMap;
use std::io;

/// System calls, each with the conditions of which one must hold; none means always.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

const DENIED: SeccompAction = SeccompAction::Errno(libc::EPERM as u32);
const UNKNOWN: SeccompAction = SeccompAction::Errno(libc::ENOSYS as u32);

pub(super) fn apply(stage: Stage) -> Result<(), ConfinementError> {
    let install = |rules: Result<Rules, BackendError>, otherwise: SeccompAction, matching: SeccompAction| {
        let arch = std::env::consts::ARCH.try_into()?;
        let program: BpfProgram = SeccompFilter::new(rules?, otherwise, matching, arch)?.try_into()?;
        seccompiler::apply_filter_all_threads(&program)
    };
    let result = match stage {
        Stage::Prepare => install(changes_and_network(), SeccompAction::Allow, DENIED),
        // Without `clone3` the C library starts threads by `clone`, whose flags a filter can see.
        Stage::Load => install(Ok(always(&[libc::SYS_clone3])), SeccompAction::Allow, UNKNOWN)
            .and_then(|()| install(programs(), SeccompAction::Allow, DENIED)),
        Stage::Serve => install(needed(), DENIED, SeccompAction::Allow),
    };
    result.map_err(|e| ConfinementError { right: "system calls", source: io::Error::other(e) })
}

fn always(calls: &[i64]) -> Rules {
    calls.iter().map(|&call| (call, Vec::new())).collect()
}

/// Holds when the bits of `mask` in the argument read `value`.
fn bits(argument: u8, mask: i32, value: i32) -> Result<SeccompRule, BackendError> {
    let (mask, value) = (u64::from(mask as u32), u64::from(value as u32));
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)?;
    SeccompRule::new(vec![condition])
}

/// What neither reading a bundle nor compiling needs: the network, changing files, other processes, the system.
fn changes_and_network() -> Result<Rules, BackendError> {
    let mut rules = always(&[
        libc::SYS_socket,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_kcmp,
        libc::SYS_openat2,
        libc::SYS_open_by_handle_at,
        libc::SYS_truncate,
        libc::SYS_unlinkat,
        libc::SYS_renameat2,
        libc::SYS_linkat,
        libc::SYS_symlinkat,
        libc::SYS_mkdirat,
        libc::SYS_mknodat,
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        libc::SYS_fchown,
        libc::SYS_fchownat,
        libc::SYS_utimensat,
        libc::SYS_setxattr,
        libc::SYS_lsetxattr,
        libc::SYS_fsetxattr,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_keyctl,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_sethostname,
    ]);
    #[cfg(target_arch = "x86_64")]
    rules.extend(always(&[
        libc::SYS_creat,
        libc::SYS_unlink,
        libc::SYS_rename,
        libc::SYS_renameat,
        libc::SYS_link,
        libc::SYS_symlink,
        libc::SYS_mkdir,
        libc::SYS_rmdir,
        libc::SYS_mknod,
        libc::SYS_chmod,
        libc::SYS_chown,
        libc::SYS_lchown,
        libc::SYS_utime,
        libc::SYS_utimes,
        libc::SYS_iopl,
        libc::SYS_ioperm,
    ]));
    #[cfg(target_arch = "aarch64")]
    rules.extend(always(&[libc::SYS_renameat]));
    let writes = |flags: u8| {
        [
            bits(flags, libc::O_ACCMODE, libc::O_WRONLY),
            bits(flags, libc::O_ACCMODE, libc::O_RDWR),
            bits(flags, libc::O_CREAT, libc::O_CREAT),
            bits(flags, libc::O_TRUNC, libc::O_TRUNC),
        ]
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
    };
    rules.insert(libc::SYS_openat, writes(2)?);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, writes(1)?);
    Ok(rules)
}

/// Starting programs and processes, and signals to others.
fn programs() -> Result<Rules, BackendError> {
    let mut rules = always(&[
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_kill,
        libc::SYS_tkill,
        libc::SYS_pidfd_open,
        libc::SYS_pidfd_send_signal,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_rt_tgsigqueueinfo,
        libc::SYS_socketpair,
    ]);
    #[cfg(target_arch = "x86_64")]
    rules.extend(always(&[libc::SYS_fork, libc::SYS_vfork]));
    rules.insert(libc::SYS_clone, vec![bits(0, libc::CLONE_THREAD, 0)?]);
    Ok(rules)
}

/// All that answering samples takes.
fn needed() -> Result<Rules, BackendError> {
    let mut rules = always(&[
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_close,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_membarrier,
        // Instances of guests are made anew after a trap, from an image in memory.
        libc::SYS_memfd_create,
        libc::SYS_ftruncate,
        libc::SYS_fcntl,
        libc::SYS_fstat,
        libc::SYS_lseek,
        libc::SYS_futex,
        libc::SYS_clock_gettime,
        libc::SYS_clock_getres,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_gettimeofday,
        libc::SYS_restart_syscall,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_getcpu,
        libc::SYS_getrandom,
        libc::SYS_getpid,
        libc::SYS_gettid,
        // Aborting raises a signal at the calling thread; other processes are out of reach of a process without rights
        // over them, and the agent starts no other of its own beside workers.
        libc::SYS_tgkill,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        // Threads of the model; the flags were seen to before.
        libc::SYS_clone,
        libc::SYS_clone3,
        libc::SYS_set_robust_list,
        libc::SYS_rseq,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ]);
    rules.insert(libc::SYS_mmap, vec![bits(2, libc::PROT_EXEC, 0)?]);
    rules.insert(libc::SYS_mprotect, vec![bits(2, libc::PROT_EXEC, 0)?]);
    rules.insert(libc::SYS_prctl, vec![bits(0, -1, libc::PR_SET_NAME)?, bits(0, -1, libc::PR_SET_VMA)?]);
    Ok(rules)
}
