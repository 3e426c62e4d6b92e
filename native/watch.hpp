// The watching thread never needs the GIL: a worker whose handler holds it for ever dies with its server.
//
// PR_SET_PDEATHSIG would not do: the parent of a worker is the forkserver, which may survive the server.
#pragma once

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>

#include "segment.hpp"

namespace wfserve {

// Wait for the process behind a pidfd to end, then end this one: with its whole group if it leads one, so
// that what a handler started goes as well.
inline void* die_with(void* argument) {
    pollfd server{static_cast<int>(reinterpret_cast<std::intptr_t>(argument)), POLLIN, 0};
    while (::poll(&server, 1, -1) < 0 && errno == EINTR) {
    }
    if (::getpgrp() == ::getpid()) ::kill(0, SIGKILL);
    ::_exit(1);
}

inline void watch_parent(int pidfd) {
    Fd own = duplicate(pidfd);
    pthread_attr_t attributes;
    ::pthread_attr_init(&attributes);
    ::pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    // Signals are for the threads that Python knows: the new one inherits a mask that lets none through.
    sigset_t all, before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    void* argument = reinterpret_cast<void*>(static_cast<std::intptr_t>(own.get()));
    const int error = ::pthread_create(&thread, &attributes, die_with, argument);
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    ::pthread_attr_destroy(&attributes);
    if (error != 0) throw std::system_error(error, std::generic_category(), "pthread_create");
    own.disown();  // the thread keeps it for as long as there is a process
}

}  // namespace wfserve
