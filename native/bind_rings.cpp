// The server's end never blocks and believes nothing the child wrote; the child's end waits without the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <ctime>
#include <new>
#include <optional>
#include <utility>
#include <vector>

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

Mapping map_rings(int fd) {
    if (size_of(fd) != sizeof(RingPair)) throw std::invalid_argument("The descriptor is not of a ring pair");
    return Mapping(fd, sizeof(RingPair));
}

// The rings between a child and one process. A child with several sleeps on the word of the first.
class Rings {
  public:
    Rings(int fd, std::optional<int> first_fd) : own_(map_rings(fd)) {
        if (first_fd) first_ = map_rings(*first_fd);
    }

    Ring& to_child() const { return rings_in(own_).to_child; }
    Ring& to_server() const { return rings_in(own_).to_server; }
    std::atomic<std::uint32_t>& child_asleep() const {
        return rings_in(first_.data() ? first_ : own_).to_child.asleep;
    }

  private:
    Mapping own_;
    Mapping first_;
};

class ServerEnd {
  public:
    explicit ServerEnd(std::optional<int> first_fd)
        : ServerEnd(create_memfd("wfserve-rings", sizeof(RingPair)), create_eventfd(), first_fd) {}
    ServerEnd(int memory_fd, int doorbell_fd, std::optional<int> first_fd)
        : ServerEnd(duplicate(memory_fd), duplicate(doorbell_fd), first_fd) {}

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
    bool child_sleeps() const { return out_.is_asleep(); }
    std::uint64_t written() const { return in_.written(); }

  private:
    ServerEnd(Fd memory, Fd doorbell, std::optional<int> first_fd)
        : memory_(std::move(memory)),
          doorbell_(std::move(doorbell)),
          rings_(memory_.get(), first_fd),
          out_(rings_.to_child(), rings_.child_asleep()),
          in_(rings_.to_server()) {}

    Fd memory_;
    Fd doorbell_;
    Rings rings_;
    Producer out_;
    Consumer in_;
};

// Wait until `ready`, without the GIL: awake for at most `spin_us` if that has paid, then asleep on `asleep`.
template <class Ready>
void wait_until(Ready ready, std::atomic<std::uint32_t>& asleep, SpinPolicies& policies,
                std::uint32_t spin_us) {
    const std::chrono::microseconds time{spin_us};
    SpinPolicy& policy = policies.of(time);
    if (!ready() && spin_us != 0 && policy.next()) {
        const nb::gil_scoped_release released;
        policy.learn(spin(ready, time));
    }
    while (!ready()) {
        if (fall_asleep(asleep, [&] { return !ready(); })) {
            const nb::gil_scoped_release released;
            // A signal that another thread of the process took is noticed after a second at the latest.
            wait_futex(asleep, 1, timespec{1, 0});
        }
        if (PyErr_CheckSignals() != 0) nb::raise_python_error();
    }
}

class ChildEnd {
  public:
    ChildEnd(int memory_fd, int doorbell_fd, std::optional<int> first_fd)
        : rings_(memory_fd, first_fd),
          doorbell_(duplicate(doorbell_fd)),
          in_(rings_.to_child(), rings_.child_asleep()),
          out_(rings_.to_server()) {}

    nb::object receive(std::uint32_t spin_us) {
        wait_until([this] { return available(); }, in_.asleep(), policies_, spin_us);
        return pop();
    }

    void send(nb::handle message) {
        const Entry entry = parse_message(message);
        while (!out_.push(entry)) pause();
        if (out_.must_wake()) ring_eventfd(doorbell_.get());
    }

    bool available() const { return in_.available() != 0; }
    nb::object pop() { return make_message(in_.pop()); }
    std::atomic<std::uint32_t>& asleep() { return in_.asleep(); }

  private:
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

    Rings rings_;
    Fd doorbell_;
    Consumer in_;
    Producer out_;
    SpinPolicies policies_;
};

// The ends of one child, which all sleep on the word of its first.
class ChildEnds {
  public:
    void add(std::uint64_t number, nb::object end) {
        ends_.push_back({number, std::move(end), nullptr});
        ends_.back().end = nb::cast<ChildEnd*>(ends_.back().owner);
    }

    void remove(std::uint64_t number) {
        ends_.erase(std::remove_if(ends_.begin(), ends_.end(),
                                   [=](const Numbered& each) { return each.number == number; }),
                    ends_.end());
    }

    nb::tuple receive(std::uint32_t spin_us) {
        if (ends_.empty()) throw std::invalid_argument("There is no end to receive from");
        std::size_t found = ends_.size();
        const auto ready = [&] {
            if (found == ends_.size())
                found =
                    turns_.next(ends_.size(), [this](std::size_t at) { return ends_[at].end->available(); });
            return found != ends_.size();
        };
        wait_until(ready, ends_.front().end->asleep(), policies_, spin_us);
        const Numbered& numbered = ends_[found];
        return nb::make_tuple(numbered.number, numbered.end->pop());
    }

  private:
    struct Numbered {
        std::uint64_t number;
        nb::object owner;
        ChildEnd* end;
    };

    std::vector<Numbered> ends_;
    Turns turns_;
    SpinPolicies policies_;
};

}  // namespace

void bind_rings(nb::module_& module) {
    const char* send_server = "def send(self, message: wfserve.transport.base.Message) -> bool";
    const char* send_child = "def send(self, message: wfserve.transport.base.Message) -> None";
    nb::class_<ServerEnd>(module, "ServerEnd", nb::is_final(), "The server's end of a child's two rings.")
        .def(nb::init<std::optional<int>>(), nb::arg("first_fd") = nb::none(),
             "Make empty rings and a doorbell, for a child whose first rings are `first_fd`, or these.\n\n"
             "Raises `OSError` or `ValueError`.")
        .def(nb::init<int, int, std::optional<int>>(), nb::arg("memory_fd"), nb::arg("doorbell_fd"),
             nb::arg("first_fd") = nb::none(),
             "Go on with rings that another process has made, or has left behind.\n\n"
             "All descriptors may be closed afterwards. Raises `OSError` or `ValueError`.")
        .def("send", &ServerEnd::send, nb::arg("message"), nb::sig(send_server),
             "Append a message and wake the child if it sleeps; False if the ring is full.\n\n"
             "Raises `ValueError` if the child corrupted the ring.")
        .def("drain", &ServerEnd::drain, nb::sig("def drain(self) -> list[wfserve.transport.base.Message]"),
             "Return all messages there are. Raises `ValueError` if the child corrupted the ring.")
        .def("fall_asleep", &ServerEnd::fall_asleep,
             "Ask for the doorbell to be rung; False if there is something to drain instead.")
        .def("wake_up", &ServerEnd::wake_up, "Clear the doorbell.")
        .def_prop_ro("memory_fd", &ServerEnd::memory_fd, "The rings' memfd.")
        .def_prop_ro("doorbell_fd", &ServerEnd::doorbell_fd, "The eventfd that the child rings.")
        .def_prop_ro("child_sleeps", &ServerEnd::child_sleeps, "Whether the child waits for messages.")
        .def_prop_ro("written", &ServerEnd::written, "How many messages the child says it has ever sent.");
    nb::class_<ChildEnd>(module, "ChildEnd", nb::is_final(), "The child's end; used by one thread.")
        .def(nb::init<int, int, std::optional<int>>(), nb::arg("memory_fd"), nb::arg("doorbell_fd"),
             nb::arg("first_fd") = nb::none(),
             "Map the rings; a child of several has those of the first at `first_fd`.\n\n"
             "All descriptors may be closed afterwards. Raises `OSError` or `ValueError`.")
        .def("receive", &ChildEnd::receive, nb::arg("spin_us"),
             nb::sig("def receive(self, spin_us: int) -> wfserve.transport.base.Message"),
             "Wait for a message, without the GIL, and return it. Signal handlers run meanwhile.\n\n"
             "The first `spin_us` of the wait are spent awake, where that has paid.")
        .def("send", &ChildEnd::send, nb::arg("message"), nb::sig(send_child),
             "Append a message and ring the server's doorbell if it sleeps; waits while the ring is full.");
    nb::class_<ChildEnds>(module, "ChildEnds", nb::is_final(), "A child's ends, which take turns.")
        .def(nb::init<>())
        .def("add", &ChildEnds::add, nb::arg("number"), nb::arg("end"),
             nb::sig("def add(self, number: int, end: ChildEnd) -> None"),
             "Hear another end; it is the first, or was made with the first's `first_fd`.")
        .def("remove", &ChildEnds::remove, nb::arg("number"), "Hear an end no more; not the first.")
        .def("receive", &ChildEnds::receive, nb::arg("spin_us"),
             nb::sig("def receive(self, spin_us: int) -> tuple[int, wfserve.transport.base.Message]"),
             "Wait for a message, as `ChildEnd.receive` does, and return the number of its end, and it.");
}

}  // namespace wfserve
