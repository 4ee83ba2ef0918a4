// `weebill._C.Guard`: are the Python objects that packed weights were made from still the same?
//
// A fused module asks before every call. For a network that is some hundred dictionary entries, and
// a version and an address per tensor: a loop in Python takes longer than a small network's first
// block, so it is done here, with Python's C interface alone. Tensors are only touched through what
// the caller hands over: the descriptor of the version, whose C function is called, and for the
// address a method, or better a C function (torch has one for compiled code: a call of a Python
// method and the integer that it makes cost ten times as much).
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
// all of their cache lines.
#include "bindings/guard.h"

#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

namespace weebill::bindings {
namespace {

namespace py = pybind11;

class Guard {
 public:
  using AddressFunction = void* (*)(PyObject*);

  Guard(py::object version, py::object address, std::uintptr_t address_function)
      : version_(std::move(version)),
        address_(std::move(address)),
        address_function_(reinterpret_cast<AddressFunction>(address_function)) {
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

  void watch(py::object tensor, int code) {
    if (getter_ != nullptr && !PyObject_TypeCheck(tensor.ptr(), PyDescr_TYPE(version_.ptr()))) {
      throw py::type_error("Guard.watch: tensor must be of the version descriptor's type");
    }
    const std::int64_t version = read_version(tensor);
    const std::int64_t address = read_address(tensor);
    will_read(tensor.ptr(), kLine);
    will_read_behind(tensor);
    tensors_.push_back({std::move(tensor), version, address, code});
  }

  int state() {
    // into the second cache: there are more of them than the first one holds
    for (const std::uintptr_t line : lines_) {
      __builtin_prefetch(reinterpret_cast<void*>(line), 0, 2);
    }
    for (std::size_t i = 0; i < seen_.size(); ++i) {
      const std::uint64_t changes = changes_of(seen_[i].dict);
      if (changes != kUnknown && changes == seen_[i].changes) continue;
      if (const int code = broken(tables_[i]); code != 0) return code;
      seen_[i].changes = changes;
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
    return 0;
  }

  /// Moved out first: dropping the last reference runs Python code, which could come back here.
  void clear() {
    const auto tables = std::exchange(tables_, {});
    seen_.clear();
    index_.clear();
    const auto tensors = std::exchange(tensors_, {});
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

  /// The number of a dictionary's last change, that no other change of any dictionary has.
  static std::uint64_t changes_of(PyObject* dict) {
#if PY_VERSION_HEX < 0x030C0000
    return reinterpret_cast<const PyDictObject*>(dict)->ma_version_tag;
#else
    return static_cast<void>(dict), kUnknown;
#endif
  }

  /// The table among those that are watched.
  Table& add(const py::dict& dict) {
    const auto [at, is_new] = index_.try_emplace(dict.ptr(), tables_.size());
    if (is_new) {
      tables_.push_back({dict, -1, 0, {}});
      seen_.push_back({dict.ptr(), kUnknown});
      const auto* object = reinterpret_cast<const PyDictObject*>(dict.ptr());
      will_read(object, sizeof *object);
      if (changes_of(dict.ptr()) == kUnknown) {
        will_read(object->ma_keys, 2 * kLine);
        will_read(object->ma_values, 2 * kLine);
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
    if (address_function_ != nullptr) {
      return static_cast<std::int64_t>(
          reinterpret_cast<std::uintptr_t>(address_function_(tensor.ptr())));
    }
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
  void will_read(const void* start, std::size_t bytes) {
    const auto first = reinterpret_cast<std::uintptr_t>(start) / kLine * kLine;
    const auto last = reinterpret_cast<std::uintptr_t>(start) + bytes;
    for (std::uintptr_t line = first; line < last && start != nullptr; line += kLine) {
      const auto at = std::lower_bound(lines_.begin(), lines_.end(), line);
      if (at == lines_.end() || *at != line) lines_.insert(at, line);
    }
  }

  /// The same for the C++ object of a torch tensor, and for all that its first line points to,
  /// among that its version and its storage: which word is which is torch's affair.
  void will_read_behind(const py::object& tensor) {
    const auto address = number(py::getattr(tensor, "_cdata", py::int_(0)));
    if (address == 0) return;
    const auto* words = reinterpret_cast<const std::uintptr_t*>(address);
    will_read(words, 3 * kLine);
    for (std::size_t i = 0; i < kLine / sizeof *words; ++i) {
      if (words[i] >= kPage && words[i] % sizeof *words == 0) {
        will_read(reinterpret_cast<const void*>(words[i]), kLine / 2);
      }
    }
  }

  static constexpr std::uintptr_t kLine = 64, kPage = 4096;
  static constexpr std::uint64_t kUnknown = 0;

  py::object version_, address_;
  const PyGetSetDef* getter_ = nullptr;  ///< of version_, if that is written in C
  const AddressFunction address_function_;
  std::vector<std::uintptr_t> lines_;  ///< cache lines to fetch, in order
  std::vector<Table> tables_;
  std::vector<Seen> seen_;                            ///< of each table
  std::unordered_map<PyObject*, std::size_t> index_;  ///< of each dictionary in tables_
  std::vector<Watched> tensors_;
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
      .def(py::init<py::object, py::object, std::uintptr_t>(), "version"_a, "address"_a,
           "address_function"_a = 0,
           "version: the descriptor of an integer attribute; address: a method without arguments. "
           "Both belong to the type of the tensors. address_function: where a C function lies that "
           "gives what the method gives, void*(PyObject*); 0: there is none.")
      .def("expect_empty", &Guard::expect_empty, "table"_a, "code"_a, "The table stays empty.")
      .def("expect_size", &Guard::expect_size, "table"_a, "code"_a,
           "The table keeps its present number of entries.")
      .def("expect_entry", &Guard::expect_entry, "table"_a, "key"_a, "code"_a,
           "table[key] stays the present object.")
      .def("watch", &Guard::watch, "tensor"_a, "code"_a,
           "The tensor keeps its present version and address.")
      .def("state", &Guard::state,
           "0 if all is as expected, else the code of one expectation that does not hold; tables "
           "come in the order in which they were first named, then tensors.");
}

}  // namespace weebill::bindings
