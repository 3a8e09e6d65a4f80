// How Compose writes a duration, a size, a port, a mount or a command in one piece of text, read exactly: what cannot be
// kept to the last digit is refused, never rounded. Knows nothing of YAML, nor of where the text stood.
// The grammar is that of the Compose specification, https://github.com/compose-spec/compose-spec.

import { z } from 'zod'
import { NAME, SECRET_NAME, SECRETS_AT, type ServiceSpec } from './deployment.js'
import { MeshError } from './error.js'

const IP = z.union([z.ipv4(), z.ipv6()])
const NAME_RULE = 'a name is 1 to 63 of a-z, 0-9 and "-", with a letter or digit at both ends'

/** tmpfs of a manifest that states no size: Docker's own default is half of the AP's memory. */
const DEFAULT_TMPFS = 64 * 1024 ** 2

/** Text for an error message: quoted, and short. */
const show = (text: string): string => JSON.stringify(text.length > 60 ? `${text.slice(0, 60)}…` : text)

/** Every function here throws this, and nothing else, at a text it does not take. */
function refuse(message: string): never {
  throw new MeshError('manifest', message)
}

/** The name of a chute, a service or a volume. */
export const name = (text: string): string =>
  NAME.test(text) ? text : refuse(`${show(text)} is not a name: ${NAME_RULE}`)

// Decimals are reckoned in billionths as bigints, so that 0.1 is one tenth. More digits than these mean a mistake.
const DECIMAL = String.raw`\d{1,15}(?:\.\d{1,9})?`
const BILLION = 10n ** 9n

function billionths(decimal: string): bigint {
  const [whole, fraction = ''] = decimal.split('.')
  return BigInt(whole + fraction.padEnd(9, '0'))
}

/** `amount` billionths as a whole number of `unit` billionths. */
function inUnits(amount: bigint, unit: bigint, finer: string): number {
  return amount % unit === 0n ? Number(amount / unit) : refuse(finer)
}

const MICROSECONDS: Record<string, bigint> = { us: 1n, ms: 1000n, s: 1_000_000n, m: 60_000_000n, h: 3_600_000_000n }
const DURATION = new RegExp(`^(?:${DECIMAL}(?:us|ms|s|m|h))+$`)
const DURATION_PART = new RegExp(`(${DECIMAL})(us|ms|s|m|h)`, 'g')

/** Milliseconds of `1m30s`, `500ms`, `1.5h`, or a bare `0`. */
export function duration(text: string): number {
  if (text === '0') return 0
  if (/^\d+$/.test(text)) return refuse(`${show(text)} has no unit: write 10s, 500ms or 1m30s`)
  if (!DURATION.test(text)) return refuse(`${show(text)} is not a duration: write 10s, 500ms or 1m30s`)
  let total = 0n
  for (const [, amount, unit] of text.matchAll(DURATION_PART)) total += billionths(amount!) * MICROSECONDS[unit!]!
  return inUnits(total, 1000n * BILLION, `${show(text)} is finer than a millisecond`)
}

const BYTES: Record<string, bigint> = { '': 1n, k: 1024n, m: 1024n ** 2n, g: 1024n ** 3n }
const SIZE = new RegExp(`^(${DECIMAL}) ?(?:b|([kmg])(?:i?b)?)?$`, 'i')

/** Bytes of `64m`, `1gb`, `512k` (powers of 1024, as in Docker) or a plain number. */
export function size(text: string): number {
  const [, amount, unit = ''] = SIZE.exec(text) ?? refuse(`${show(text)} is not a size: write 64m, 1gb or bytes`)
  return inUnits(billionths(amount!) * BYTES[unit.toLowerCase()]!, BILLION, `${show(text)} is no whole number of bytes`)
}

/** Thousandths of a CPU of `0.5`. */
export function cpus(text: string): number {
  if (!new RegExp(`^(?:${DECIMAL})$`).test(text)) return refuse(`${show(text)} is not a number of CPUs: write 0.5 or 2`)
  return inUnits(billionths(text) * 1000n, BILLION, `${show(text)} is finer than a thousandth of a CPU`)
}

export const whole = (text: string): number =>
  /^\d{1,9}$/.test(text) ? Number(text) : refuse(`${show(text)} is not a whole number`)

export function port(text: string): number {
  if (/^\d+-\d+$/.test(text)) return refuse(`${show(text)} is a range, which is not supported: list each port`)
  const number = /^\d{1,5}$/.test(text) ? Number(text) : 0
  return number >= 1 && number <= 65535 ? number : refuse(`${show(text)} is not a port: 1 to 65535`)
}

const MODE = /^0[0-7]{3}$/

/** A secret, or the file it becomes. */
export const secretName = (text: string): string =>
  SECRET_NAME.test(text)
    ? text
    : refuse(`${show(text)} is not the name of a secret: 1 to 32 of a-z, A-Z, 0-9 and "_.-"`)

/** The name of a file in the one folder that secrets are in. */
export const secretFile = (text: string): string =>
  secretName(text.startsWith(`${SECRETS_AT}/`) ? text.slice(SECRETS_AT.length + 1) : text)

/** An octal mode, as Compose writes it. */
export const fileMode = (text: string): number =>
  MODE.test(text) ? Number.parseInt(text, 8) : refuse(`${show(text)} is not a mode: write 0440`)

/** A user or group of the container, which an AP knows by its number alone. */
export const owner = (text: string): number =>
  /^\d{1,9}$/.test(text) ? Number(text) : refuse(`${show(text)} is not the number of a user or group: write "1000"`)

/** A capability as Docker names it, with or without CAP_, or ALL. */
export function capability(text: string): string {
  const name = text.toUpperCase().replace(/^CAP_/, '')
  return /^[A-Z_]{1,32}$/.test(name) ? name : refuse(`${show(text)} is not a capability: write NET_BIND_SERVICE`)
}

export const devicePath = (path: string): string =>
  /^\/dev\/[\w./-]+$/.test(path) && containerPath(path) === path
    ? path
    : refuse(`${show(path)} is not a device: write /dev/ttyUSB0, or /dev/ttyUSB0:/dev/modem`)

/** `/dev/ttyUSB0`, `/dev/ttyUSB0:/dev/modem`; a chute may read and write it, and make no others. */
export function device(text: string): NonNullable<ServiceSpec['devices']>[number] {
  const [host = '', container = host, access = 'rw', ...rest] = text.split(':')
  for (const path of [host, container]) devicePath(path)
  if (rest.length > 0 || access !== 'rw') return refuse(`access ${show([access, ...rest].join(':'))}: rw alone`)
  return { host, container }
}

export const ulimitName = (text: string): string =>
  /^[a-z]{1,16}$/.test(text) ? text : refuse(`${show(text)} is not a limit: write nofile, memlock or nproc`)

/** A number of files, bytes or seconds; -1 is no limit. */
export const ulimit = (text: string): number => (text === '-1' ? -1 : whole(text))

const SIGNALS = /^(SIG)?(HUP|INT|QUIT|KILL|USR1|USR2|TERM|ALRM|CONT|STOP|WINCH|PWR|RTMIN(\+\d{1,2})?)$/

/** `SIGINT`, `INT` or a number of those that people use. */
export function signal(text: string): string {
  const numbered: Record<string, string> = {
    1: 'HUP',
    2: 'INT',
    3: 'QUIT',
    9: 'KILL',
    10: 'USR1',
    12: 'USR2',
    15: 'TERM',
  }
  const [, , name] = SIGNALS.exec(numbered[text] ?? text.toUpperCase()) ?? []
  return name === undefined ? refuse(`${show(text)} is not a signal: write SIGINT`) : `SIG${name}`
}

/** Bytes of `10m`, in powers of 1000, as Docker's log drivers take them. */
export function logSize(text: string): number {
  const [, amount, unit = ''] = /^(\d{1,12})([kmg]?)b?$/i.exec(text) ?? refuse(`${show(text)} is not a size: write 10m`)
  return Number(amount) * 1000 ** ['', 'k', 'm', 'g'].indexOf(unit.toLowerCase())
}

const HOST = /^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$/

export const hostName = (text: string): string =>
  HOST.test(text) && text.length <= 253 ? text : refuse(`${show(text)} is not the name of a host`)

export const address = (text: string): string =>
  IP.safeParse(text).success ? text : refuse(`${show(text)} is not an IP address`)

/** `printer=10.0.0.7`, `printer:10.0.0.7`. */
export function extraHost(text: string): { name: string; address: string } {
  const [, name = '', to = ''] = /^([^=:]+)[=:](.*)$/.exec(text) ?? refuse(`${show(text)} is not NAME=ADDRESS`)
  if (to === 'host-gateway') return refuse('host-gateway is the AP itself, which no chute reaches')
  return { name: hostName(name.trim()), address: address(to.trim().replace(/^\[(.*)\]$/, '$1')) }
}

/** The one option of Docker's hardening that a chute has anyway. */
export const securityOption = (text: string): void =>
  /^no-new-privileges([:=]true)?$/.test(text) ? undefined : refuse('the hardening of a chute is fixed')

/** A text that must be one of `words`. */
export const oneOf =
  <T extends string>(...words: T[]) =>
  (text: string): T =>
    words.find((word) => word === text) ?? refuse(`${show(text)} is not supported: ${words.join(' or ')}`)

const protocol = oneOf('tcp', 'udp')

/** `80`, `8080:80` or `8080:80/udp`. */
export function portMapping(text: string): ServiceSpec['ports'][number] {
  const [ports = '', kind = 'tcp', ...rest] = text.split('/')
  const [container = '', host, ...address] = ports.split(':').reverse()
  if (rest.length > 0) return refuse(`${show(text)} is not a port: write 80, 8080:80 or 8080:80/udp`)
  if (address.length > 0) {
    return refuse(
      `${show(text)} names a host address, but no two APs share one: write ${host || container}:${container}`,
    )
  }
  return { container: port(container), ...(host === undefined ? {} : { host: port(host) }), protocol: protocol(kind) }
}

/** An absolute path in a container, without `.`, `..`, doubled or trailing slashes, or Docker's separator `:`. */
export function containerPath(text: string): string {
  const segments = text.split('/').filter((segment) => segment !== '')
  if (!text.startsWith('/')) return refuse(`${show(text)} is not an absolute path in the container`)
  if (text.includes(':') || segments.some((segment) => segment === '.' || segment === '..')) {
    return refuse(`${show(text)}: a path in the container holds no ":", "." or ".."`)
  }
  return `/${segments.join('/')}`
}

export function mountPath(text: string): string {
  const path = containerPath(text)
  return path === '/' ? refuse('nothing can be mounted over the root of the container') : path
}

const hostPath = (text: string): string =>
  `${show(text)} is a path on the host, and a chute moves between hosts: name a volume, as in data:/data, or write a file under configs`

/** The named volume of a mount; what would be a folder of the AP is refused. */
export const volumeName = (text: string): string => (/^[.~/\\]/.test(text) ? refuse(hostPath(text)) : name(text))

export const mountType = (text: string): 'volume' =>
  text === 'volume'
    ? text
    : refuse(`${show(text)} is not supported: a chute mounts named volumes, and tmpfs under its own key`)

/** `data:/data`, `data:/data:ro`. */
export function mount(text: string): ServiceSpec['mounts'][number] {
  if (/^[A-Za-z]:\\/.test(text)) return refuse(hostPath(text))
  const [source = '', target, mode = 'rw', ...rest] = text.split(':')
  if (target === undefined) {
    return refuse(`${show(text)} is an anonymous volume, whose data nobody could find: name it, as in data:/data`)
  }
  const volume = volumeName(source)
  if (rest.length > 0 || (mode !== 'ro' && mode !== 'rw')) {
    return refuse(`option ${show([mode, ...rest].join(':'))} of a volume is not supported: ro or rw`)
  }
  return { volume, path: mountPath(target), readOnly: mode === 'ro' }
}

/** `/run`, `/run:size=64m`. */
export function tmpfs(text: string): ServiceSpec['tmpfs'][number] {
  const colon = text.indexOf(':')
  if (colon < 0) return { path: mountPath(text), size: DEFAULT_TMPFS }
  const [, bytes] = /^size=([^,]*)$/.exec(text.slice(colon + 1)) ?? []
  if (bytes === undefined) {
    return refuse(`option ${show(text.slice(colon + 1))} of a tmpfs is not supported: size=64m alone`)
  }
  return { path: mountPath(text.slice(0, colon)), size: size(bytes) }
}

/** `KEY=value`, of an environment or build arguments, or a key alone. */
export function variable(text: string): [key: string, value: string | undefined] {
  const equals = text.indexOf('=')
  if (equals < 0) return [variableName(text), undefined]
  return [variableName(text.slice(0, equals)), text.slice(equals + 1)]
}

export function variableName(text: string): string {
  // __proto__ is a name in a shell and a trap in an object.
  if (/^[A-Za-z_][\w.-]{0,255}$/.test(text) && text !== '__proto__') return text
  return refuse(`${show(text)} is not the name of a variable: letters, digits, "_", "." and "-"`)
}

/** `node.labels.zone == roof`. */
export function constraint(text: string): { label: string; value: string } {
  const [, label, value] = /^node\.labels\.([\w./-]+) *== *([^\s=](?:.*\S)?)$/.exec(text) ?? []
  if (label === undefined || value === undefined) {
    return refuse(`${show(text)} is not supported: write node.labels.KEY == VALUE`)
  }
  return { label, value }
}

export const imageReference = (text: string): string =>
  /^\w[\w./:@-]{0,511}$/.test(text) ? text : refuse(`${show(text)} is not the name of an image`)

/**
 * A path of the manifest's own folder. Whoever publishes a stranger's manifest must not give away their own files.
 * @param folder what the path is relative to, in that of the manifest
 */
export function ownPath(text: string, folder = '.'): string {
  if (/^[a-z][a-z0-9+.-]*:\/\/|^git@/i.test(text)) {
    return refuse(`${show(text)} is an address: publish that repository instead`)
  }
  const path: string[] = []
  let isInside = text !== '' && !/^[/~]|\\/.test(text)
  for (const segment of `${folder}/${text}`.split('/')) {
    if (segment === '..') isInside &&= path.pop() !== undefined
    else if (segment !== '' && segment !== '.') path.push(segment)
  }
  return isInside ? path.join('/') || '.' : refuse(`${show(text)} is not a path inside the folder of the manifest`)
}

// One piece of a command line: 'literal', "with \" escapes", \c, bare text, or the white space between words.
const PIECE = /'([^']*)'|"([^"\\]*(?:\\[\s\S][^"\\]*)*)"|\\([\s\S])|([^ \t\r\n'"\\;&|<>()`]+)|[ \t\r\n]+/y

/**
 * The words of a command line, by the quoting rules of POSIX sh, section 2.2. No shell will run them: what only a shell
 * could do is refused, since Compose drops it without a word.
 */
export function shellWords(line: string): string[] {
  const words: string[] = []
  let word: string | undefined
  for (let at = 0; at < line.length; at = PIECE.lastIndex) {
    PIECE.lastIndex = at
    const piece = PIECE.exec(line)
    if (!piece) return refuse(unreadable(line, at))
    const [all, single, double, escaped, bare] = piece
    const part = single ?? double?.replace(/\\(["\\$`\n])/g, (_, c) => (c === '\n' ? '' : c)) ?? escaped ?? bare
    if (all === '\\\n') continue // a line continued
    if (part !== undefined) word = (word ?? '') + part
    else if (word !== undefined) {
      words.push(word)
      word = undefined
    }
  }
  return word === undefined ? words : [...words, word]
}

function unreadable(line: string, at: number): string {
  const character = line[at]!
  if (character === '\\') return 'the command ends in a backslash'
  if (character === "'" || character === '"') return `the command has a ${character} that is never closed`
  return `the command holds ${show(character)}, but no shell runs it: quote it, or write ["sh", "-c", "…"]`
}
