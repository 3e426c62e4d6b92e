// A segment is a sealed memfd: whoever maps it can neither shrink nor grow it under the others.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <system_error>
#include <utility>

namespace wfserve {

[[noreturn]] inline void throw_errno(const char* what) {
    throw std::system_error(errno, std::generic_category(), what);
}

// A file descriptor, closed exactly once.
class Fd {
  public:
    Fd() = default;
    explicit Fd(int fd, const char* what) : fd_(fd) {
        if (fd < 0) throw_errno(what);
    }
    Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Fd& operator=(Fd&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~Fd() { close(); }

    int get() const { return fd_; }
    void disown() { fd_ = -1; }
    void close() {
        if (fd_ >= 0) ::close(std::exchange(fd_, -1));
    }

  private:
    int fd_ = -1;
};

inline Fd duplicate(int fd) {
    return Fd(::fcntl(fd, F_DUPFD_CLOEXEC, 0), "fcntl(F_DUPFD_CLOEXEC)");
}

// Shrinking a file that others have mapped would kill them with SIGBUS: the seals make that impossible.
// They do not forbid punching holes, which is how memory is given back.
inline Fd create_memfd(const char* name, std::size_t size) {
    Fd fd(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING), "memfd_create");
    if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) throw_errno("ftruncate");
    if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        throw_errno("fcntl(F_ADD_SEALS)");
    }
    return fd;
}

// A shared, writable mapping of a whole memfd, left out of core dumps (it may span a terabyte).
class Mapping {
  public:
    Mapping() = default;
    Mapping(int fd, std::size_t size) : size_(size) {
        void* start = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
        if (start == MAP_FAILED) throw_errno("mmap");
        data_ = static_cast<std::byte*>(start);
        ::madvise(start, size, MADV_DONTDUMP);  // best effort
    }
    Mapping(Mapping&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    Mapping& operator=(Mapping&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }
    ~Mapping() { unmap(); }

    std::byte* data() const { return data_; }
    std::size_t size() const { return size_; }
    void unmap() {
        if (data_) ::munmap(std::exchange(data_, nullptr), std::exchange(size_, 0));
    }

  private:
    std::byte* data_ = nullptr;
    std::size_t size_ = 0;
};

inline std::size_t size_of(int fd) {
    struct stat status{};
    if (::fstat(fd, &status) != 0) throw_errno("fstat");
    return static_cast<std::size_t>(status.st_size);
}

// A memfd with its mapping, as its owner has it.
struct Segment {
    Fd fd;
    Mapping mapping;

    // Reserve `wanted` bytes of address space, or half as often as it takes where that is refused
    // (RLIMIT_AS, RLIMIT_FSIZE, a small address space), down to `least`. Takes no memory until touched.
    static Segment reserve(const char* name, std::size_t wanted, std::size_t least) {
        for (std::size_t size = wanted;; size /= 2) {
            try {
                Segment segment;
                segment.fd = create_memfd(name, size);
                segment.mapping = Mapping(segment.fd.get(), size);
                return segment;
            } catch (const std::system_error&) {
                if (size / 2 < least) throw;
            }
        }
    }

    // Give the pages of a range back to the system; it reads as zeros afterwards.
    bool punch(std::uint64_t offset, std::uint64_t length) const {
        return ::fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                           static_cast<off_t>(length)) == 0;
    }

    // Bytes of memory that the segment really takes.
    std::uint64_t resident() const {
        struct stat status{};
        if (fd.get() < 0 || ::fstat(fd.get(), &status) != 0) return 0;
        return static_cast<std::uint64_t>(status.st_blocks) * 512;
    }

    void close() {
        mapping.unmap();
        fd.close();
    }
};

}  // namespace wfserve
