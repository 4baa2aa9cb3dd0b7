# Shell functions of the stand-in for sh, bash and zsh; conda's hook writes CONDA_EXE and its like above them.
__conda_exe() (
    "$CONDA_EXE" ${_CE_M:-} ${_CE_CONDA:-} "$@"
)

__conda_eval() {
    \local __conda_code
    __conda_code="$(PS1="${PS1:-}" __conda_exe shell.posix "$@")" || \return
    \eval "$__conda_code"
    if [ -n "${ZSH_VERSION:-}" ]; then \rehash; else \hash -r; fi
}

conda() {
    case "${1:-}" in
        activate|deactivate)
            __conda_eval "$@" ;;
        install|update|upgrade|remove|uninstall)
            __conda_exe "$@" || \return
            __conda_eval reactivate ;;
        *)
            __conda_exe "$@" ;;
    esac
}

if [ -z "${CONDA_SHLVL+x}" ]; then
    \export CONDA_SHLVL=0
    PATH="$(\dirname "$(\dirname "$CONDA_EXE")")/condabin${PATH:+":${PATH}"}"
    \export PATH
    if [ -z "${PS1+x}" ]; then PS1=; fi
fi
