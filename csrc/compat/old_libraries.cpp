// What lets libraries built with a recent gcc load where the C library is glibc 2.28 and the C++
// library is gcc 8's: local definitions of the few symbols that gcc's newer headers refer to and
// the older libraries lack. Linked with WEEBILL_OLD_LIBRARIES=ON; nothing of it is exported.
#include <new>
#include <sstream>

// glibc 2.32. Inline code of the C++ library skips atomic instructions where it is not 0; other
// threads are always possible here.
extern "C" char __libc_single_threaded;
char __libc_single_threaded = 0;

namespace std {

// gcc 11 (GLIBCXX_3.4.29).
void __throw_bad_array_new_length() { throw bad_array_new_length(); }

}  // namespace std

// gcc 11 (CXXABI_1.3.13) inlines exception_ptr's copies and destructor into calls of two functions
// that count references. Assignment counts too, and the library has exported it since gcc 4.4. By
// name, since in C++ it would be the inlined one; an optimised build emits no copy of that.
extern "C" void weebill_assign_exception(void** self, void* const* other) noexcept
    __asm__("_ZNSt15__exception_ptr13exception_ptraSERKS0_");
extern "C" void weebill_add_reference(void** self) noexcept
    __asm__("_ZNSt15__exception_ptr13exception_ptr9_M_addrefEv");
extern "C" void weebill_release(void** self) noexcept
    __asm__("_ZNSt15__exception_ptr13exception_ptr10_M_releaseEv");
void weebill_add_reference(void** self) noexcept {
  void* copy = nullptr;  // never destroyed
  weebill_assign_exception(&copy, self);
}
void weebill_release(void** self) noexcept {
  void* const none = nullptr;
  weebill_assign_exception(self, &none);
}

// gcc 9 (GLIBCXX_3.4.26): the default constructor apart from the one that takes a mode.
extern "C" void weebill_construct_stringstream(void* self) __asm__(
    "_ZNSt7__cxx1118basic_stringstreamIcSt11char_traitsIcESaIcEEC1Ev");
void weebill_construct_stringstream(void* self) {
  new (self) std::stringstream(std::ios_base::in | std::ios_base::out);
}

// glibc 2.34 moved libpthread into libc, under new versions. The linker sends calls of pthread_once
// here (--wrap), and this refers to the version of the architecture's first glibc, which old and
// new ones have.
#if defined(__aarch64__)
__asm__(".symver weebill_pthread_once, pthread_once@GLIBC_2.17");
#elif defined(__x86_64__)
__asm__(".symver weebill_pthread_once, pthread_once@GLIBC_2.2.5");
#else
#error "name the first glibc of this architecture"
#endif
extern "C" int weebill_pthread_once(int* control, void (*routine)());
extern "C" int __wrap_pthread_once(int* control, void (*routine)());
int __wrap_pthread_once(int* control, void (*routine)()) {
  return weebill_pthread_once(control, routine);
}
