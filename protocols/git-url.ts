// Where a chute or a build context lies in a git repository, as Docker and Compose write it: `URL#REF:FOLDER`, both optional.
// Read strictly, since git takes more for a URL than one should give it: what begins with "-" is an option to it, `ext::` runs a
// command. Pure.
import { MeshError } from './error.js'

export interface GitSource {
  /** As git takes it. */
  readonly repository: string
  readonly scheme: 'https' | 'http' | 'git' | 'ssh'
  /** A tag, a branch or a commit; undefined for the default branch. */
  readonly ref: string | undefined
  /** A folder of the repository, as `a/b`; empty for all of it. */
  readonly folder: string
}

const MAX_URL = 2048
const MAX_REF = 255

/** What is meant as a URL, and no path, whether or not it can be read as one. */
export const isGitUrl = (text: string): boolean => /^[a-z][a-z0-9+.-]*:\/\/|^[\w.-]+@[\w.-]+:/i.test(text)

const URL_FORM = /^(https?|git|ssh):\/\/(?:([^@/]*)@)?([^@/:[\]]+|\[[0-9a-fA-F:.]{2,45}\])(?::(\d{1,5}))?(\/.+)$/
/** `git@host:path`, as ssh and scp write it. */
const SCP_FORM = /^([^@/:]+)@([^@/:[\]]+):(?!\/\/)([^:].*)$/
const HOST = /^(?:[A-Za-z0-9_](?:[\w.-]{0,251}[A-Za-z0-9_])?|\[.*\])$/
const USER = /^[A-Za-z0-9_][\w.-]{0,63}$/
/** Name and password of HTTP: what RFC 3986 allows there. */
const USER_INFO = /^[\w.~%!$&'()*+,;=-]{1,256}(?::[\w.~%!$&'()*+,;=-]{0,1024})?$/
const ODD = /[\s\p{C}\\?]|%[01][0-9a-f]|%7f/iu

/** @throws MeshError `git-url` */
export function parseGitUrl(text: string): GitSource {
  const refuse = (why: string): never => {
    throw new MeshError(
      'git-url',
      `${JSON.stringify(shownUrl(text).slice(0, 200))} is no URL of a git repository: ${why}`,
    )
  }
  if (text.length > MAX_URL) return refuse(`longer than ${MAX_URL} characters`)
  const hash = text.indexOf('#')
  const repository = hash < 0 ? text : text.slice(0, hash)
  const fragment = hash < 0 ? '' : text.slice(hash + 1)
  if (ODD.test(repository)) return refuse('it holds white space, "?", "\\" or what cannot be printed')
  const colon = fragment.indexOf(':')
  const ref = colon < 0 ? fragment : fragment.slice(0, colon)
  const folder = colon < 0 ? '' : fragment.slice(colon + 1)
  if (ref !== '' && !isRef(ref)) return refuse(`"${ref.slice(0, 80)}" can be no tag, branch or commit`)
  const segments = folder.split('/').filter((segment) => segment !== '' && segment !== '.')
  if (segments.includes('..') || /[\p{C}\\]/u.test(folder)) {
    return refuse(`"${folder.slice(0, 80)}" is no folder inside the repository`)
  }
  return { ...place(repository, refuse), ref: ref || undefined, folder: segments.join('/') }
}

function place(repository: string, refuse: (why: string) => never): Pick<GitSource, 'repository' | 'scheme'> {
  const [, user, address, path] = SCP_FORM.exec(repository) ?? []
  if (user !== undefined && address !== undefined && path !== undefined) {
    if (!USER.test(user) || !HOST.test(address) || path.startsWith('-')) return refuse('write it as git@HOST:PATH')
    return { repository, scheme: 'ssh' }
  }
  const [, scheme, info, host, port = '1'] = URL_FORM.exec(repository) ?? []
  if (scheme === undefined || host === undefined) {
    return refuse('write it as https://HOST/PATH, ssh://git@HOST/PATH or git@HOST:PATH')
  }
  if (!HOST.test(host) || Number(port) < 1 || Number(port) > 65_535) return refuse('it names no host')
  if (info !== undefined) {
    const isSound = scheme === 'ssh' ? USER.test(info) : scheme !== 'git' && USER_INFO.test(info)
    if (!isSound) return refuse('what stands before the "@" is no user')
  }
  return { repository, scheme: scheme as GitSource['scheme'] }
}

/** A name as `git check-ref-format` allows it, that means nothing else to git. */
const isRef = (text: string): boolean =>
  text.length <= MAX_REF && !/[\s\p{C}~^:?*[\\]|\.\.|@\{|\/\/|^[-+/.]|\/\.|[/.]$|\.lock(?:$|\/)|^@$/u.test(text)

/** Whether a ref can be nothing but a commit: git finds no shorter form of it on a server. */
export const isCommit = (ref: string): boolean => /^(?:[0-9a-f]{40}|[0-9a-f]{64})$/.test(ref)

/** A URL for people to read: without the name and password that it may hold. */
export const shownUrl = (text: string): string => text.replace(/^(https?:\/\/)[^@/]*@/i, '$1…@')

/** What the folder of a URL is called: the last part of it that names something. */
export function folderNameOf({ repository, folder }: GitSource): string {
  const path = folder || repository.replace(/\/+$/, '').replace(/\.git$/, '')
  return path.split(/[/:]/).at(-1) ?? ''
}
