// That chutes do not reach the services of their AP: its ssh, its engine's API, its node. They come in by the bridges of
// their networks, all named alike, so one rule of the AP's own INPUT is enough, for those to come as well. An engine that
// restarts leaves it alone. Knows nothing of chutes.
import { spawn } from 'node:child_process'

/** What the bridges of chutes are called; the kernel takes 15 characters. */
export const BRIDGE = 'dm-'

const CHAIN = 'DROPMESH'

const JUMP = ['INPUT', '-i', `${BRIDGE}+`, '-j', CHAIN]

// Answers pass, such as those of a chute that serves. So do questions for names, since the AP may be who answers them on
// its LAN; whatever else the AP has for INPUT comes after.
const RULES = `*filter
:${CHAIN} - [0:0]
-A ${CHAIN} -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN
-A ${CHAIN} -p udp --dport 53 -j RETURN
-A ${CHAIN} -p tcp --dport 53 -j RETURN
-A ${CHAIN} -p tcp -j REJECT --reject-with tcp-reset
-A ${CHAIN} -j REJECT
COMMIT
`

/**
 * Makes sure of the rule, on the machine of this process; repeating it changes nothing.
 * @returns why it could not, or undefined
 */
export async function keepChutesOut(): Promise<string | undefined> {
  // Chutes have no IPv6 unless the engine gives it to all containers; where the machine has none there is nothing to refuse.
  const [why] = await Promise.all([keepOut('iptables'), keepOut('ip6tables')])
  return why
}

async function keepOut(iptables: string): Promise<string | undefined> {
  // Filled anew in one step each time: an earlier version may have made it.
  const why = await run(`${iptables}-restore`, ['-w', '--noflush'], RULES)
  if (why !== undefined || (await run(iptables, ['-w', '-C', ...JUMP])) === undefined) return why
  return run(iptables, ['-w', '-I', ...JUMP])
}

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
