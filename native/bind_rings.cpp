// The server's end never blocks and believes nothing the child wrote; the child's end waits without the GIL.
#include <nanobind/nanobind.h>

#include <ctime>
#include <new>

#include "bindings.hpp"
#include "doorbell.hpp"
#include "ring.hpp"
#include "segment.hpp"
#include "spin.hpp"

namespace wfserve {

namespace {

RingPair& rings_in(const Mapping& mapping) {
    return *reinterpret_cast<RingPair*>(mapping.data());
}

class ServerEnd {
  public:
    ServerEnd()
        : memory_(create_memfd("wfserve-rings", sizeof(RingPair))),
          mapping_(memory_.get(), sizeof(RingPair)),
          doorbell_(create_eventfd()),
          out_(rings_in(mapping_).to_child),
          in_(rings_in(mapping_).to_server) {}

    bool send(nb::handle message) {
        if (!out_.push(parse_message(message))) return false;
        if (out_.must_wake()) wake_futex(out_.asleep());
        return true;
    }

    nb::list drain() {
        nb::list messages;
        for (std::uint64_t count = in_.available(); count > 0; --count)
            messages.append(make_message(in_.pop()));
        return messages;
    }

    bool fall_asleep() { return in_.fall_asleep(); }
    void wake_up() { clear_eventfd(doorbell_.get()); }
    int memory_fd() const { return memory_.get(); }
    int doorbell_fd() const { return doorbell_.get(); }

  private:
    Fd memory_;
    Mapping mapping_;
    Fd doorbell_;
    Producer out_;
    Consumer in_;
};

class ChildEnd {
  public:
    ChildEnd(int memory_fd, int doorbell_fd)
        : mapping_(memory_fd, checked_size(memory_fd)),
          doorbell_(duplicate(doorbell_fd)),
          in_(rings_in(mapping_).to_child),
          out_(rings_in(mapping_).to_server) {}

    nb::object receive() {
        if (in_.available() == 0 && policy_.next()) look_a_moment();
        while (in_.available() == 0) {
            if (in_.fall_asleep()) sleep();
            if (PyErr_CheckSignals() != 0) nb::raise_python_error();
        }
        return make_message(in_.pop());
    }

    void send(nb::handle message) {
        const Entry entry = parse_message(message);
        while (!out_.push(entry)) pause();
        if (out_.must_wake()) ring_eventfd(doorbell_.get());
    }

  private:
    static std::size_t checked_size(int fd) {
        if (size_of(fd) != sizeof(RingPair))
            throw std::invalid_argument("The descriptor is not of a ring pair");
        return sizeof(RingPair);
    }

    void look_a_moment() {
        const nb::gil_scoped_release released;
        policy_.learn(spin([this] { return in_.available() != 0; }));
    }

    // A signal that another thread of the process took is noticed after a second at the latest.
    void sleep() {
        const nb::gil_scoped_release released;
        wait_futex(in_.asleep(), 1, timespec{1, 0});
    }

    // The server drains its ring whole, whenever it runs: a full one is rare and short, so it has no
    // doorbell.
    static void pause() {
        {
            const nb::gil_scoped_release released;
            const timespec moment{0, 200'000};
            ::nanosleep(&moment, nullptr);
        }
        if (PyErr_CheckSignals() != 0) nb::raise_python_error();
    }

    Mapping mapping_;
    Fd doorbell_;
    Consumer in_;
    Producer out_;
    SpinPolicy policy_;
};

}  // namespace

void bind_rings(nb::module_& module) {
    const char* send_server = "def send(self, message: wfserve.transport.base.Message) -> bool";
    const char* send_child = "def send(self, message: wfserve.transport.base.Message) -> None";
    nb::class_<ServerEnd>(module, "ServerEnd", nb::is_final(), "The server's end of a child's two rings.")
        .def(nb::init<>(), "Make empty rings and a doorbell. Raises `OSError`.")
        .def("send", &ServerEnd::send, nb::arg("message"), nb::sig(send_server),
             "Append a message and wake the child if it sleeps; False if the ring is full.\n\n"
             "Raises `ValueError` if the child corrupted the ring.")
        .def("drain", &ServerEnd::drain, nb::sig("def drain(self) -> list[wfserve.transport.base.Message]"),
             "Return all messages there are. Raises `ValueError` if the child corrupted the ring.")
        .def("fall_asleep", &ServerEnd::fall_asleep,
             "Ask for the doorbell to be rung; False if there is something to drain instead.")
        .def("wake_up", &ServerEnd::wake_up, "Clear the doorbell.")
        .def_prop_ro("memory_fd", &ServerEnd::memory_fd, "The rings' memfd.")
        .def_prop_ro("doorbell_fd", &ServerEnd::doorbell_fd, "The eventfd that the child rings.");
    nb::class_<ChildEnd>(module, "ChildEnd", nb::is_final(), "The child's end; used by one thread.")
        .def(nb::init<int, int>(), nb::arg("memory_fd"), nb::arg("doorbell_fd"),
             "Map the rings; both descriptors may be closed afterwards. Raises `OSError` or `ValueError`.")
        .def("receive", &ChildEnd::receive, nb::sig("def receive(self) -> wfserve.transport.base.Message"),
             "Wait for a message, without the GIL, and return it. Signal handlers run meanwhile.")
        .def("send", &ChildEnd::send, nb::arg("message"), nb::sig(send_child),
             "Append a message and ring the server's doorbell if it sleeps; waits while the ring is full.");
}

}  // namespace wfserve
