// Chains of this AP's own in the firewall of its machine. What they are for, those that fill them say.
import { spawn } from 'node:child_process'

export interface Chain {
  readonly program: 'iptables' | 'ip6tables'
  readonly table: 'filter' | 'mangle'
  /** At most 28 characters. */
  readonly name: string
  /** The chain of the kernel that leads to it, and for what. */
  readonly from: readonly [string, ...string[]]
}

/**
 * Has a chain be just these rules, in one step whatever it was before, and lead there.
 * @returns why that could not be, or undefined
 */
export async function fillChain(chain: Chain, rules: readonly string[]): Promise<string | undefined> {
  const lines = rules.map((rule) => `-A ${chain.name} ${rule}`)
  return (await restore(chain, lines)) ?? ((await hasJump(chain)) ? undefined : iptables(chain, '-I'))
}

/**
 * Removes a chain and what leads to it; where there is none nothing changes.
 * @returns why that could not be, or undefined
 */
export async function removeChain(chain: Chain): Promise<string | undefined> {
  const unlink = (await hasJump(chain)) ? [`-D ${jumpTo(chain).join(' ')}`] : []
  return restore(chain, [...unlink, `-X ${chain.name}`])
}

/** Carries out lines on a chain that is empty, and there, before the first of them: all or none. */
const restore = ({ program, table, name }: Chain, lines: readonly string[]): Promise<string | undefined> =>
  run(`${program}-restore`, ['-w', '--noflush'], [`*${table}`, `:${name} - [0:0]`, ...lines, 'COMMIT', ''].join('\n'))

const jumpTo = ({ from, name }: Chain): string[] => [...from, '-j', name]

const hasJump = async (chain: Chain): Promise<boolean> => (await iptables(chain, '-C')) === undefined

const iptables = (chain: Chain, action: '-C' | '-I'): Promise<string | undefined> =>
  run(chain.program, ['-w', '-t', chain.table, action, ...jumpTo(chain)])

/** Why a command failed; undefined where it did not. */
function run(command: string, args: string[], input = ''): Promise<string | undefined> {
  return new Promise((resolve) => {
    const env = { ...process.env, PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin` }
    const child = spawn(command, args, { env, stdio: ['pipe', 'ignore', 'pipe'], timeout: 10_000 })
    let stderr = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text
    })
    child.on('error', ({ message }) => resolve(message))
    child.on('close', (code) => resolve(code === 0 ? undefined : `${command}: ${stderr.trim().split('\n')[0]}`))
    child.stdin.on('error', () => {})
    child.stdin.end(input)
  })
}
