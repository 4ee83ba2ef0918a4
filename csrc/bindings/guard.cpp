// `weebill._C.Guard`: are the Python objects that packed weights were made from still the same?
//
// A fused module asks before every call. For a network that is some hundred dictionary entries, and
// a version and an address per tensor: a loop in Python takes longer than a small network's first
// block, so it is done here, with Python's C interface alone. Tensors are only touched through what
// the caller hands over: the descriptor of the version, whose C function is called, and for the
// address a method. That takes 30 ns a tensor and reads twice the memory that tells a change; where
// the caller knows that memory (weebill/fusion/memory.py finds it out), it is read directly.
//
// CPython before 3.12 numbers every change of a dictionary (PEP 509): as long as a table's number
// is the one of the last look, no entry has to be looked up. For MobileNetV3-Large that leaves
// 1,000 comparisons of 3,000. Later versions only tell their own interpreter, and every entry is
// looked at.
//
// An entry is borrowed from its dictionary for the time of one comparison of addresses.
//
// A network's forward leaves none of these objects in the first caches. Read one after the other,
// each with its pointers, they cost three times what the comparisons do. So state() first asks for
// all of their cache lines, and then compares at addresses that it knows, without a branch: a
// pointer that was read and found right is an address that what is behind it waits for. For
// MobileNetV3-Large behind a forward that is 12 us; where the lines were asked for into the second
// cache, of which a Zen 5 leaves out many, it was 27 (Small 3.6 and 4.4).
#include "bindings/guard.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

namespace weebill::bindings {
namespace {

namespace py = pybind11;

class Guard {
 public:
  Guard(py::object version, py::object address, const py::object& layout)
      : version_(std::move(version)), address_(std::move(address)), direct_(!layout.is_none()) {
    if (direct_) {
      const auto offsets = layout.cast<std::array<std::uint32_t, 7>>();
      layout_ = {offsets[0], offsets[1], offsets[2], offsets[3],
                 offsets[4], offsets[5], offsets[6]};
    }
    if (Py_IS_TYPE(version_.ptr(), &PyGetSetDescr_Type)) {
      getter_ = reinterpret_cast<PyGetSetDescrObject*>(version_.ptr())->d_getset;
    }
  }

  void expect_empty(const py::dict& table, int code) { expect_length(table, 0, code); }

  void expect_size(const py::dict& table, int code) {
    expect_length(table, static_cast<Py_ssize_t>(table.size()), code);
  }

  void expect_entry(const py::dict& table, py::object key, int code) {
    PyObject* found = entry(table, key);
    if (found == nullptr) throw py::key_error(py::str(key));
    add(table).entries.push_back({std::move(key), py::reinterpret_borrow<py::object>(found), code});
  }

  void watch(py::object tensor, py::object alias, int code) {
    if (getter_ != nullptr && !PyObject_TypeCheck(tensor.ptr(), PyDescr_TYPE(version_.ptr()))) {
      throw py::type_error("Guard.watch: tensor must be of the version descriptor's type");
    }
    if (!direct_ || !watch_memory(tensor, alias, code)) {
      tensors_.push_back({tensor, read_version(tensor), read_address(tensor), code});
    }
    kept_.push_back(std::move(tensor));
    kept_.push_back(std::move(alias));
  }

  int state() {
    for (const std::uintptr_t line : lines_)
      __builtin_prefetch(reinterpret_cast<void*>(line), 0, 3);
    if (!tables_unchanged()) {
      for (std::size_t i = 0; i < seen_.size(); ++i) {
        const std::uint64_t changes = changes_of(seen_[i].dict);
        if (changes != kUnknown && changes == seen_[i].changes) continue;
        if (const int code = broken(tables_[i]); code != 0) return code;
        seen_[i].changes = changes;
      }
    }
    if (!memory_unchanged()) {
      for (const auto& item : memory_) {
        if (!holds(item)) return item.code;
      }
    }
    for (const auto& item : tensors_) {
      if (read_version(item.tensor) != item.version) return item.code;
      if (read_address(item.tensor) != item.address) return item.code;
    }
    return 0;
  }

  int traverse(visitproc visit, void* arg) const {
    Py_VISIT(version_.ptr());
    Py_VISIT(address_.ptr());
    for (const auto& table : tables_) {
      Py_VISIT(table.dict.ptr());
      for (const auto& item : table.entries) {
        Py_VISIT(item.key.ptr());
        Py_VISIT(item.object.ptr());
      }
    }
    for (const auto& item : tensors_) Py_VISIT(item.tensor.ptr());
    for (const auto& object : kept_) Py_VISIT(object.ptr());
    return 0;
  }

  /// Moved out first: dropping the last reference runs Python code, which could come back here.
  void clear() {
    const auto tables = std::exchange(tables_, {});
    seen_.clear();
    index_.clear();
    memory_.clear();
    const auto tensors = std::exchange(tensors_, {});
    const auto kept = std::exchange(kept_, {});
    lines_.clear();
  }

 private:
  struct Entry {
    py::object key;
    py::object object;
    int code;
  };
  struct Table {
    py::dict dict;
    Py_ssize_t size = -1;  ///< expected; -1: any
    int size_code = 0;
    std::vector<Entry> entries;
  };
  struct Seen {
    PyObject* dict;
    std::uint64_t changes;  ///< number of the last change before all was as expected
  };
  struct Watched {
    py::object tensor;
    std::int64_t version;
    std::int64_t address;
    int code;
  };

  /// Offsets in torch's objects, in bytes; see weebill/fusion/memory.py.
  struct Layout {
    std::uint32_t object_tensor, storage, counter, geometry, geometry_end, version, data;
  };
  /// What tells that a tensor has changed, and what was there.
  struct Memory {
    std::uintptr_t object, tensor, storage, counter, data;
    std::uint64_t geometry;  ///< a sum over it that every change of one word changes
    std::uint32_t version;
    int code;
  };

  template <typename T>
  static T load(std::uintptr_t address) {
    return __atomic_load_n(reinterpret_cast<const T*>(address), __ATOMIC_RELAXED);
  }

  /// Whether no table has another number than when all in it was as expected.
  bool tables_unchanged() const {
    std::uint64_t different = 0;
    for (const Seen& table : seen_) {
      const std::uint64_t changes = changes_of(table.dict);
      different |= (changes ^ table.changes) | static_cast<std::uint64_t>(changes == kUnknown);
    }
    return different == 0;
  }

  /// Whether holds() for all, without telling for which it does not.
  bool memory_unchanged() const {
    const Layout at = layout_;  // of its own: nothing that is read could be part of it
    std::uintptr_t different = 0;
    for (const Memory& m : memory_) {
      different |= load<std::uintptr_t>(m.object + at.object_tensor) ^ m.tensor;
    }
    if (different != 0) return false;
    // now every tensor is known to be alive
    for (const Memory& m : memory_) {
      different |= load<std::uintptr_t>(m.tensor + at.storage) ^ m.storage;
      different |= load<std::uintptr_t>(m.tensor + at.counter) ^ m.counter;
      different |= load<std::uint32_t>(m.counter + at.version) ^ m.version;
      different |= load<std::uintptr_t>(m.storage + at.data) ^ m.data;
      different |= geometry_of(m.tensor, at) ^ m.geometry;
    }
    return different == 0;
  }

  /// In this order: an object is known to be alive if the one before it still points to it. What
  /// the tensor pointed to is kept by its alias.
  bool holds(const Memory& m) const {
    return load<std::uintptr_t>(m.object + layout_.object_tensor) == m.tensor &&
           load<std::uintptr_t>(m.tensor + layout_.storage) == m.storage &&
           load<std::uintptr_t>(m.tensor + layout_.counter) == m.counter &&
           load<std::uint32_t>(m.counter + layout_.version) == m.version &&
           load<std::uintptr_t>(m.storage + layout_.data) == m.data &&
           geometry_of(m.tensor, layout_) == m.geometry;
  }

  static std::uint64_t geometry_of(std::uintptr_t tensor, const Layout& layout) {
    std::uint64_t sum = 0, factor = kOdd;
    for (std::uint32_t at = layout.geometry; at < layout.geometry_end; at += sizeof sum) {
      sum += load<std::uint64_t>(tensor + at) * factor;
      factor += 2 * kOdd;  // odd: a word's product tells the word
    }
    return sum;
  }

  /// Whether the tensor's memory is where the layout has it, and is watched there.
  bool watch_memory(const py::object& tensor, const py::object& alias, int code) {
    const auto start = static_cast<std::uintptr_t>(number(tensor.attr("_cdata")));
    const auto other = static_cast<std::uintptr_t>(number(alias.attr("_cdata")));
    const auto object = reinterpret_cast<std::uintptr_t>(tensor.ptr());
    if (load<std::uintptr_t>(object + layout_.object_tensor) != start) return false;
    Memory found{object,
                 start,
                 load<std::uintptr_t>(start + layout_.storage),
                 load<std::uintptr_t>(start + layout_.counter),
                 0,
                 geometry_of(start, layout_),
                 0,
                 code};
    if (found.storage != load<std::uintptr_t>(other + layout_.storage) ||
        found.counter != load<std::uintptr_t>(other + layout_.counter)) {
      return false;
    }
    found.data = load<std::uintptr_t>(found.storage + layout_.data);
    found.version = load<std::uint32_t>(found.counter + layout_.version);
    will_read(object + layout_.object_tensor, sizeof object);
    will_read(start + layout_.storage, sizeof found.storage);
    will_read(start + layout_.counter, sizeof found.counter);
    will_read(start + layout_.geometry, layout_.geometry_end - layout_.geometry);
    will_read(found.counter + layout_.version, sizeof found.version);
    will_read(found.storage + layout_.data, sizeof found.data);
    if (found.version != read_version(tensor)) return false;
    memory_.push_back(found);
    return true;
  }

  /// Where a dictionary has the number of its last change, that no other change of any dictionary
  /// has; nullptr where there is none.
  static const std::uint64_t* number_of(PyObject* dict) {
#if PY_VERSION_HEX < 0x030C0000
    return &reinterpret_cast<const PyDictObject*>(dict)->ma_version_tag;
#else
    return static_cast<void>(dict), nullptr;
#endif
  }

  static std::uint64_t changes_of(PyObject* dict) {
    const std::uint64_t* number = number_of(dict);
    return number == nullptr ? kUnknown : *number;
  }

  /// The table among those that are watched.
  Table& add(const py::dict& dict) {
    const auto [at, is_new] = index_.try_emplace(dict.ptr(), tables_.size());
    if (is_new) {
      tables_.push_back({dict, -1, 0, {}});
      seen_.push_back({dict.ptr(), kUnknown});
      if (const std::uint64_t* number = number_of(dict.ptr()); number != nullptr) {
        will_read(reinterpret_cast<std::uintptr_t>(number), sizeof *number);
      } else {
        const auto* object = reinterpret_cast<const PyDictObject*>(dict.ptr());
        will_read(reinterpret_cast<std::uintptr_t>(object), sizeof *object);
        will_read(reinterpret_cast<std::uintptr_t>(object->ma_keys), 2 * kLine);
        if (object->ma_values != nullptr) {
          will_read(reinterpret_cast<std::uintptr_t>(object->ma_values), 2 * kLine);
        }
      }
    }
    return tables_[at->second];
  }

  void expect_length(const py::dict& dict, Py_ssize_t size, int code) {
    Table& table = add(dict);
    table.size = size;
    table.size_code = code;
  }

  /// The code of the first expectation that does not hold; 0: all do.
  static int broken(const Table& table) {
    if (table.size >= 0 && PyDict_GET_SIZE(table.dict.ptr()) != table.size) return table.size_code;
    for (const auto& item : table.entries) {
      if (entry(table.dict, item.key) != item.object.ptr()) return item.code;
    }
    return 0;
  }

  static PyObject* entry(const py::dict& table, const py::object& key) {
    PyObject* found = PyDict_GetItemWithError(table.ptr(), key.ptr());
    if (found == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
    return found;
  }

  /// The attribute's own descriptor is called, which saves looking the name up; of one written in C
  /// its function, which saves checking the type again.
  std::int64_t read_version(const py::object& tensor) const {
    PyObject* found = nullptr;
    if (getter_ != nullptr) {
      found = getter_->get(tensor.ptr(), getter_->closure);
    } else {
      PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(tensor.ptr()));
      found = Py_TYPE(version_.ptr())->tp_descr_get(version_.ptr(), tensor.ptr(), type);
    }
    return number(py::reinterpret_steal<py::object>(found));
  }

  std::int64_t read_address(const py::object& tensor) const {
    return number(
        py::reinterpret_steal<py::object>(PyObject_CallOneArg(address_.ptr(), tensor.ptr())));
  }

  static std::int64_t number(const py::object& value) {
    if (!value) throw py::error_already_set();
    const auto result = PyLong_AsUnsignedLongLongMask(value.ptr());
    if (PyErr_Occurred() != nullptr) throw py::error_already_set();
    return static_cast<std::int64_t>(result);
  }

  /// Has state() fetch the bytes early. Once the object moves this fetches in vain; it never reads.
  void will_read(std::uintptr_t start, std::size_t bytes) {
    for (std::uintptr_t line = start / kLine * kLine; line < start + bytes; line += kLine) {
      const auto at = std::lower_bound(lines_.begin(), lines_.end(), line);
      if (at == lines_.end() || *at != line) lines_.insert(at, line);
    }
  }

  static constexpr std::uintptr_t kLine = 64;
  static constexpr std::uint64_t kOdd = 0x9E3779B97F4A7C15;
  static constexpr std::uint64_t kUnknown = 0;

  py::object version_, address_;
  const PyGetSetDef* getter_ = nullptr;  ///< of version_, if that is written in C
  const bool direct_;                    ///< whether there is a layout
  Layout layout_{};
  std::vector<std::uintptr_t> lines_;  ///< cache lines to fetch, in order
  std::vector<Table> tables_;
  std::vector<Seen> seen_;                            ///< of each table
  std::unordered_map<PyObject*, std::size_t> index_;  ///< of each dictionary in tables_
  std::vector<Memory> memory_;
  std::vector<Watched> tensors_;  ///< without a layout, and those that it does not fit
  std::vector<py::object> kept_;  ///< tensors and their aliases
};

/// The guard in a Python object, nullptr while that is being made: the collector sees it earlier.
Guard* constructed(PyObject* self) {
  const auto* instance = reinterpret_cast<const py::detail::instance*>(self);
  return instance->simple_holder_constructed ? py::cast<Guard*>(py::handle(self)) : nullptr;
}

/// A guard's objects can hold the module that holds the guard: the garbage collector has to see
/// them.
void collectable(PyHeapTypeObject* heap_type) {
  PyTypeObject* type = &heap_type->ht_type;
  type->tp_flags |= Py_TPFLAGS_HAVE_GC;
  type->tp_traverse = [](PyObject* self, visitproc visit, void* arg) -> int {
    Py_VISIT(Py_TYPE(self));
    const Guard* guard = constructed(self);
    return guard == nullptr ? 0 : guard->traverse(visit, arg);
  };
  type->tp_clear = [](PyObject* self) -> int {
    if (Guard* guard = constructed(self)) guard->clear();
    return 0;
  };
}

}  // namespace

void define_guard(py::module_& m) {
  using namespace py::literals;
  py::class_<Guard>(m, "Guard", py::custom_type_setup(&collectable),
                    "Tells whether watched Python objects are still what they were.")
      .def(py::init<py::object, py::object, const py::object&>(), "version"_a, "address"_a,
           "layout"_a = py::none(),
           "version: the descriptor of an integer attribute; address: a method without arguments. "
           "Both belong to the type of the tensors. layout: offsets in their memory, as "
           "weebill.fusion.memory.layout() gives them; None: the attributes are asked.")
      .def("expect_empty", &Guard::expect_empty, "table"_a, "code"_a, "The table stays empty.")
      .def("expect_size", &Guard::expect_size, "table"_a, "code"_a,
           "The table keeps its present number of entries.")
      .def("expect_entry", &Guard::expect_entry, "table"_a, "key"_a, "code"_a,
           "table[key] stays the present object.")
      .def("watch", &Guard::watch, "tensor"_a, "alias"_a, "code"_a,
           "The tensor keeps its present version and address, and with a layout its sizes and "
           "strides. alias: tensor.detach(), which keeps the memory from being used again.")
      .def("state", &Guard::state,
           "0 if all is as expected, else the code of one expectation that does not hold; tables "
           "come in the order in which they were first named, then tensors.");
}

}  // namespace weebill::bindings
