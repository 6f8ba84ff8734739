import { readFileSync } from "node:fs";
import { test } from "vitest";
import { parseTokenizer } from "../../src/text/tokenizer.ts";
test("probe",()=>{
const ref=JSON.parse(readFileSync("/tmp/probe/ref2.json","utf8"));
for (const [k,r] of Object.entries<any>(ref)) {
  const t=parseTokenizer(JSON.parse(readFileSync(`/tmp/probe/j_${k}.json`,"utf8")),null);
  let be=0,bd=0,show=0;
  const eq=(a:any,b:any)=>JSON.stringify(a)===JSON.stringify(b);
  for(const [s,a,b] of r.enc){ const x=t.encode(s); const y=t.encode(s,{specialTokens:false}); if(!eq(x,a)||!eq(y,b)){be++; if(show++<2)console.log(k,JSON.stringify(s),"\n  got ",x.map((i:any)=>t.token(i)).join("|"),"\n  want",a.map((i:any)=>t.token(i)).join("|"));}}
  show=0;
  for(const [ids,a,b] of r.dec){ const x=t.decode(ids),y=t.decode(ids,{skipSpecialTokens:true}); if(x!==a||y!==b){bd++; if(show++<2)console.log(k,JSON.stringify(ids.map((i:any)=>t.token(i))),"\n  got ",JSON.stringify(x),"\n  want",JSON.stringify(a));}}
  console.log("==",k,"enc diffs",be,"/",r.enc.length," dec diffs",bd,"/",r.dec.length);
}
});
