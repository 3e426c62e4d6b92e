// Everything the arena knows is in its owner's private heap: a child that maps the segment cannot corrupt it.
//
// The segment is cut into 32 regions of equal size; region c holds slots of 64 << c bytes, side by side.
// Which slot an offset lies in is therefore arithmetic. A slot is free (on one of its region's two lists) or
// held by one or more `Hold`s. Not thread-safe: the GIL serializes all use.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "segment.hpp"

namespace wfserve {

struct Extent {
    std::uint64_t offset;
    std::uint64_t length;
};

struct ArenaStatistics {
    std::uint64_t slots;
    std::uint64_t loaned_bytes;
    std::uint64_t limit_bytes;
    std::uint64_t resident_bytes;
    std::uint64_t high_water_bytes;
};

class Arena {
  public:
    // At most `limit` bytes are lent and kept; free slots keep up to `retain` bytes of them for the next
    // loan.
    Arena(std::uint64_t limit, std::uint64_t retain, std::uint64_t reservation)
        : segment_(Segment::reserve("wfserve-arena", floor_power(reservation), kLeastReservation)),
          region_shift_(log2(segment_.mapping.size()) - kRegionBits),
          classes_(std::min(region_shift_ - kSmallestShift + 1, 1u << kRegionBits)),
          limit_(limit),
          retain_(retain) {}

    // Lend a slot of at least `nbytes`, held once; nothing if the limit would be exceeded.
    std::optional<Extent> loan(std::uint64_t nbytes) {
        if (closed_ || nbytes > limit_) return std::nullopt;
        unsigned c = class_of(nbytes);
        while (c < classes_.size() && region_full(c)) ++c;  // the next larger size serves as well
        if (c >= classes_.size()) return std::nullopt;
        const std::uint64_t need =
            std::min(slot_size(c), round_up(std::max<std::uint64_t>(nbytes, 1), unit(c)));
        if (loaned_ + kept_ + need > limit_ + next_backed(c)) trim(kEverything, kNever);
        if (loaned_ + std::max(need, next_backed(c)) > limit_) return std::nullopt;
        return lend(c, need);
    }

    void retain(std::uint64_t offset) { ++slot_at(offset).refs; }

    void release(std::uint64_t offset) {
        if (--slot_at(offset).refs != 0) return;
        free(offset);
        if (closed_ && slots_ == 0) segment_.close();
    }

    // Punch out the pages that only slots lie in which have been free for a whole round: what is lent again
    // and again keeps its pages. Looks at about `most` bytes, so that nobody waits long, and returns at how
    // many it did; with 0 the round is over and the next one begins.
    std::uint64_t trim(std::uint64_t most) {
        const std::uint64_t seen = trim(most, round_);
        if (seen == 0) ++round_;
        return seen;
    }

    // No more loans; the segment goes with the last slot that is still held.
    void close() {
        closed_ = true;
        if (slots_ == 0) segment_.close();
    }

    std::byte* data(std::uint64_t offset) const { return segment_.mapping.data() + offset; }
    int fd() const { return segment_.fd.get(); }
    std::uint64_t free_bytes() const { return limit_ - loaned_; }
    ArenaStatistics statistics() const { return {slots_, loaned_, limit_, segment_.resident(), high_water_}; }

  private:
    static constexpr unsigned kRegionBits = 5;
    static constexpr unsigned kSmallestShift = 6;  // 64 bytes: one cache line, one frame alignment
    static constexpr std::uint32_t kNone = UINT32_MAX;
    static constexpr std::uint64_t kEverything = UINT64_MAX;
    static constexpr std::uint64_t kNever = UINT64_MAX;  // the round before which every slot was given back
    static constexpr std::size_t kLeastReservation = std::size_t{1} << 28;

    struct Slot {
        std::uint64_t backed = 0;  // bytes that may have been touched since the slot was last punched
        std::uint32_t refs = 0;
        std::uint32_t next = kNone;  // on a free list
        std::uint64_t freed = 0;     // the round in which it was given back, or looked at in vain
    };

    // Both lists are last in, first out: the slot freed last is the one most likely still in a cache.
    struct Class {
        std::vector<Slot> slots;     // grows as slots are first used
        std::uint32_t warm = kNone;  // free, pages still there
        std::uint32_t cold = kNone;  // free, pages given back
    };

    static unsigned log2(std::uint64_t value) { return 63u - static_cast<unsigned>(__builtin_clzll(value)); }
    static std::uint64_t floor_power(std::uint64_t value) { return std::uint64_t{1} << log2(value | 1); }
    static std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) {
        return (value + unit - 1) / unit * unit;
    }
    static std::uint64_t page() {
        static const auto size = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
        return size;
    }

    static std::uint64_t slot_size(unsigned c) { return std::uint64_t{1} << (kSmallestShift + c); }
    static unsigned class_of(std::uint64_t nbytes) {
        return nbytes <= slot_size(0) ? 0 : log2(nbytes - 1) + 1 - kSmallestShift;
    }
    // What is accounted for: whole slots while they are smaller than a page, the pages asked for beyond.
    static std::uint64_t unit(unsigned c) { return std::min(slot_size(c), page()); }

    std::uint64_t region_start(unsigned c) const { return std::uint64_t{c} << region_shift_; }
    std::uint64_t offset_of(unsigned c, std::uint64_t index) const {
        return region_start(c) + (index << (kSmallestShift + c));
    }
    unsigned class_at(std::uint64_t offset) const { return static_cast<unsigned>(offset >> region_shift_); }
    std::uint32_t index_at(std::uint64_t offset) const {
        const unsigned c = class_at(offset);
        return static_cast<std::uint32_t>((offset - region_start(c)) >> (kSmallestShift + c));
    }
    Slot& slot_at(std::uint64_t offset) { return classes_[class_at(offset)].slots[index_at(offset)]; }

    bool region_full(unsigned c) const {
        const Class& cls = classes_[c];
        const std::uint64_t capacity = std::uint64_t{1} << (region_shift_ - kSmallestShift - c);
        return cls.warm == kNone && cls.cold == kNone &&
               cls.slots.size() >= std::min<std::uint64_t>(capacity, kNone);
    }

    // Bytes that the slot which the next loan takes has already.
    std::uint64_t next_backed(unsigned c) const {
        const Class& cls = classes_[c];
        return cls.warm == kNone ? 0 : cls.slots[cls.warm].backed;
    }

    Extent lend(unsigned c, std::uint64_t need) {
        Class& cls = classes_[c];
        const std::uint32_t index = take(cls);
        Slot& slot = cls.slots[index];
        kept_ -= slot.backed;
        slot.backed = std::max(slot.backed, need);
        slot.refs = 1;
        loaned_ += slot.backed;
        high_water_ = std::max(high_water_, loaned_);
        ++slots_;
        return {offset_of(c, index), slot.backed};
    }

    static std::uint32_t take(Class& cls) {
        std::uint32_t& list = cls.warm != kNone ? cls.warm : cls.cold;
        if (list != kNone) {
            const std::uint32_t index = list;
            list = cls.slots[index].next;
            return index;
        }
        cls.slots.emplace_back();
        return static_cast<std::uint32_t>(cls.slots.size() - 1);
    }

    void free(std::uint64_t offset) {
        const unsigned c = class_at(offset);
        const std::uint32_t index = index_at(offset);
        const std::uint64_t backed = classes_[c].slots[index].backed;
        loaned_ -= backed;
        --slots_;
        const bool punched =
            kept_ + backed > retain_ && backed >= page() && segment_.punch(offset_of(c, index), slot_size(c));
        punched ? chill(c, index) : keep(c, index);
    }

    void keep(unsigned c, std::uint32_t index) {
        Class& cls = classes_[c];
        Slot& slot = cls.slots[index];
        slot.next = std::exchange(cls.warm, index);
        slot.freed = round_;
        kept_ += slot.backed;
    }

    void chill(unsigned c, std::uint32_t index) {
        Class& cls = classes_[c];
        cls.slots[index].next = std::exchange(cls.cold, index);
        cls.slots[index].backed = 0;
    }

    std::uint64_t trim(std::uint64_t most, std::uint64_t before) {
        std::uint64_t seen = 0;
        for (unsigned c = 0; c < classes_.size() && seen < most; ++c)
            seen += trim_class(c, most - seen, before);
        return seen;
    }

    std::uint64_t trim_class(unsigned c, std::uint64_t most, std::uint64_t before) {
        const std::uint64_t kept = kept_;
        const std::vector<std::uint32_t> warm = take_warm(c, most, before);
        const std::uint64_t seen = kept - kept_;
        for (std::size_t first = 0, last = 0; first < warm.size(); first = last) {
            for (last = first + 1; last < warm.size() && warm[last] == warm[last - 1] + 1;) ++last;
            trim_run(c, warm[first], warm[last - 1] + 1, before);
        }
        return seen;
    }

    // Warm slots that were given back before a round, off their list, where the others stay in order. One of
    // more than `most` bytes stays and is shortened.
    std::vector<std::uint32_t> take_warm(unsigned c, std::uint64_t most, std::uint64_t before) {
        Class& cls = classes_[c];
        std::vector<std::uint32_t> indices;
        std::uint64_t seen = 0;
        for (std::uint32_t* link = &cls.warm; *link != kNone && seen < most;) {
            Slot& slot = cls.slots[*link];
            if (slot.freed >= before) {
                link = &slot.next;
            } else if (const std::uint64_t gone = shorten(c, *link, most - seen)) {
                seen += gone;
            } else {
                indices.push_back(std::exchange(*link, slot.next));
                seen += slot.backed;
                kept_ -= slot.backed;
            }
        }
        std::sort(indices.begin(), indices.end());
        return indices;
    }

    // Punch out the last `nbytes`, in whole pages, of a free slot that has more; how many bytes went.
    std::uint64_t shorten(unsigned c, std::uint32_t index, std::uint64_t nbytes) {
        Slot& slot = classes_[c].slots[index];
        if (slot.backed <= nbytes || slot.backed <= round_up(nbytes, page())) return 0;
        const std::uint64_t gone = round_up(nbytes, page());
        if (!segment_.punch(offset_of(c, index) + slot.backed - gone, gone)) return 0;
        slot.backed -= gone;
        kept_ -= gone;
        return gone;
    }

    bool begins_page(unsigned c, std::uint32_t index) const { return offset_of(c, index) % page() == 0; }

    // Some that are free may be cold: a page whose slots had all been punched may have been lent again in
    // part.
    static bool idle(const Slot& slot, std::uint64_t before) {
        return slot.refs == 0 && (slot.backed == 0 || slot.freed < before);
    }

    // How far the idle slots reach, on the page that `index` lies in, down and up from it.
    std::uint32_t idle_before(unsigned c, std::uint32_t index, std::uint64_t before) const {
        while (!begins_page(c, index) && idle(classes_[c].slots[index - 1], before)) --index;
        return index;
    }
    std::uint32_t idle_behind(unsigned c, std::uint32_t index, std::uint64_t before) const {
        const std::vector<Slot>& slots = classes_[c].slots;
        while (index < slots.size() && !begins_page(c, index) && idle(slots[index], before)) ++index;
        return index;
    }

    // Punch the whole pages among the idle neighbours [first, last) in one call; slots on other pages stay
    // warm.
    void trim_run(unsigned c, std::uint32_t first, std::uint32_t last, std::uint64_t before) {
        const std::uint32_t lowest = idle_before(c, first, before), behind = idle_behind(c, last, before);
        const bool nothing_behind = behind == classes_[c].slots.size();
        const std::uint64_t from = round_up(offset_of(c, lowest), page());
        const std::uint64_t end = offset_of(c, behind);
        const std::uint64_t to = nothing_behind ? round_up(end, page()) : end / page() * page();
        const bool punched = to > from && segment_.punch(from, to - from);
        for (std::uint32_t index = last; index-- > first;) {
            const bool gone = punched && offset_of(c, index) >= from && offset_of(c, index + 1) <= to;
            gone ? chill(c, index) : keep(c, index);
        }
    }

    Segment segment_;
    unsigned region_shift_;
    std::vector<Class> classes_;
    std::uint64_t limit_;
    std::uint64_t retain_;
    std::uint64_t slots_ = 0;   // held now
    std::uint64_t loaned_ = 0;  // bytes of these
    std::uint64_t kept_ = 0;    // bytes of free slots that still have their pages
    std::uint64_t high_water_ = 0;
    std::uint64_t round_ = 1;  // of trimming
    bool closed_ = false;
};

// One reference to a slot: while it lives, so do the slot and the mapping.
class Hold {
  public:
    // Adopts the reference that `Arena::loan` made.
    Hold(std::shared_ptr<Arena> arena, std::uint64_t offset) : arena_(std::move(arena)), offset_(offset) {}
    Hold(const Hold& other) : arena_(other.arena_), offset_(other.offset_) { arena_->retain(offset_); }
    Hold(Hold&& other) noexcept = default;
    Hold& operator=(const Hold&) = delete;
    ~Hold() {
        if (arena_) arena_->release(offset_);
    }

    std::byte* data(std::uint64_t offset) const { return arena_->data(offset); }

  private:
    std::shared_ptr<Arena> arena_;
    std::uint64_t offset_;
};

}  // namespace wfserve
