# conda init copies this file; the stand-in supports sh, bash and zsh only.
