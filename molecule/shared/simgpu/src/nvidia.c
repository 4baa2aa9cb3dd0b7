/* A kernel module file that modinfo can read and that no kernel will load: .modinfo and nothing else. */
#define INFO(tag, text) \
    static const char tag[] __attribute__((section(".modinfo"), used, aligned(1))) = #tag "=" text

INFO(version, MODULE_VERSION);
INFO(license, MODULE_LICENSE);
INFO(description, "Simulated NVIDIA driver of torchfleet's test fleet");
INFO(alias, "pci:v000010DEd*sv*sd*bc03sc02i00*");
INFO(name, "nvidia");
INFO(vermagic, MODULE_KERNEL " SMP preempt mod_unload modversions ");
